"""The gRPC server with all its services."""

from collections.abc import Mapping
from concurrent import futures

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from bn_keras_serving.common.limits import MESSAGE_BYTES, Limits
from bn_keras_serving.configuration import ServerTls
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.grpc_api.health import Health
from bn_keras_serving.grpc_api.services import SERVICES, add_services

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# Threads for calls that run no model, in addition to those for inference requests.
STATE_THREADS = 1024


def create_server(
    dispatcher: Dispatcher,
    health: Health,
    limits: Limits,
    channel_arguments: Mapping[str, str | int],
) -> grpc.Server:
    """Return a server with prediction, model, health and reflection services.

    Args:
        dispatcher: Answers the requests.
        health: Answers health checks.
        limits: Limits on what a client may request.
        channel_arguments: Further options for gRPC's server, which override the others.
    """
    server = grpc.server(
        # Each accepted inference request holds a thread while it waits. The other
        # threads keep health and status available when all of those are taken.
        futures.ThreadPoolExecutor(limits.concurrent_requests + STATE_THREADS, "calls"),
        options=[
            *{
                # By default two servers can share a port, and then its requests.
                "grpc.so_reuseport": 0,
                "grpc.max_receive_message_length": limits.message_bytes,
                "grpc.max_send_message_length": MESSAGE_BYTES,
                **channel_arguments,
            }.items()
        ],
    )
    add_services(server, dispatcher, limits.concurrent_requests)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(
        (*SERVICES, HEALTH_SERVICE, reflection.SERVICE_NAME), server
    )
    return server


def server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Return gRPC's credentials for a key, a certificate and, if given, clients' CA."""
    return grpc.ssl_server_credentials(
        [(tls.server_key.encode(), tls.server_cert.encode())],
        root_certificates=tls.custom_ca.encode() if tls.custom_ca else None,
        require_client_auth=tls.client_verify,
    )
