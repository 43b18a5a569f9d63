#pragma once

// Failures that no handler of ours made: gRPC ends a call itself when the request's bytes are no
// message of its type, or when a handler throws, with a bare code. They get a reason on their way
// out, so that every failure a server sends has one.

#include <memory>

namespace grpc::experimental {
class ServerInterceptorFactoryInterface;
}

namespace octavo {

// For a server's builder, which then sends no failure of a registered method without a reason:
// BAD_REQUEST for a request that cannot be read (malformed, or a string that is not UTF-8), else
// what the code says (ReasonOf).
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> ReasonGivers();

}  // namespace octavo
