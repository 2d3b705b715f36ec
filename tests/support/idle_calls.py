"""A client that opens many gRPC calls, sends nothing, and cancels them when told."""

import threading

import grpc

# Channels of one process share a connection otherwise, and its limit of streams.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def hold_calls(address, method, connections, calls_per_connection, control):
    """Open calls, and cancel them after a message.

    Args:
        address: The server's address.
        method: Path of the method.
        connections: Number of connections.
        calls_per_connection: Number of calls on each of them.
        control: Connection to the test, which is told of the two steps.
    """
    released = threading.Event()

    def send_nothing():
        released.wait()
        return
        yield  # a generator that never yields

    channels = [
        grpc.insecure_channel(address, OWN_CONNECTION) for _ in range(connections)
    ]
    for channel in channels:
        grpc.channel_ready_future(channel).result(60)
    control.send("connected")
    control.recv()
    calls = [
        channel.stream_stream(method)(send_nothing())
        for channel in channels
        for _ in range(calls_per_connection)
    ]
    control.send("opened")
    control.recv()
    for call in calls:
        call.cancel()
    control.send("cancelled")
    control.recv()
    released.set()
