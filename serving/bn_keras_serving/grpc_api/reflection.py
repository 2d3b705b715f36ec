"""The reflection service, in the versions `grpc.reflection.v1alpha` and `v1`."""

import contextlib
from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

SERVICES = (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")


def add_reflection(server: grpc.aio.Server, service_names: Iterable[str]) -> None:
    """Answer questions about the services of a server.

    Args:
        server: A server that has not been started.
        service_names: Full names of its services; those of reflection are added.
    """
    servicer = reflection.aio.ReflectionServicer((*service_names, *SERVICES))
    # The two versions differ in nothing but the name of their package, so the messages
    # of one serve the other too; gRPC's Python package has only v1alpha.
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    _register_v1()
    for service in SERVICES:
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    service, {"ServerReflectionInfo": handler}
                ),
            )
        )


def _register_v1() -> None:
    """Describe v1 as well, for clients that ask for it by name."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    text = text_format.MessageToString(file).replace("v1alpha", "v1")
    # The pool rejects the file only if something else has registered another one under
    # these names, which then describes v1.
    with contextlib.suppress(TypeError):
        descriptor_pool.Default().Add(
            text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
        )
