"""The Greeter on grpc C-core: a server of another make than the client's.

    greeter.py PORT [KEY=INTEGER ...]

Serves on 127.0.0.1:PORT (0: any), with channel arguments KEY, and prints the port. A line on standard input stops it
gracefully (GOAWAY, ten seconds for open streams); the end of standard input stops it at once.
"""

import sys
import time
from concurrent import futures

import grpc


def fields(message):
    """The fields of a protobuf message with varints and byte strings only, as a dict by number."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            found[key >> 3] = varint()
        elif key & 7 == 2:
            size = varint()
            found[key >> 3] = message[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {key & 7}")
    return found


def reply(text):
    data = text.encode()
    size, rest = bytearray(), len(data)
    while rest >= 0x80:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    size.append(rest)
    return b"\x0a" + bytes(size) + data


def say_hello(request, context):
    request = fields(request)
    name = request.get(1, b"").decode()
    time.sleep(request.get(2, 0) / 1000)
    if name == "nobody":
        context.abort(grpc.StatusCode.NOT_FOUND, "nobody is not here")
    return reply(f"grpcio: hello, {name}")


def stream_hello(request, context):
    request = fields(request)
    name = request.get(1, b"").decode()
    for i in range(request.get(2, 0)):
        yield reply(f"{i}: hello, {name}")
        time.sleep(request.get(3, 0) / 1000)


def main():
    port = int(sys.argv[1])
    options = [(key, int(value)) for key, value in (pair.split("=") for pair in sys.argv[2:])]
    options.append(("grpc.so_reuseport", 0))
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=options)
    handlers = {
        "SayHello": grpc.unary_unary_rpc_method_handler(say_hello),
        "StreamHello": grpc.unary_stream_rpc_method_handler(stream_hello),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("cenote.greeter.v1.Greeter", handlers),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(port, flush=True)
    if sys.stdin.readline():
        server.stop(grace=10).wait()
    else:
        server.stop(grace=None).wait()


main()
