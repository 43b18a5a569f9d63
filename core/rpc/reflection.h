#pragma once

// Server reflection over the descriptors linked into this program: v1alpha (the library's, which
// registers itself when linked) and v1 (ours). Open to every caller: it tells the interface,
// nothing else.

#include <memory>
#include <string>
#include <vector>

namespace grpc {
class ServerBuilder;
}

namespace octavo {

using ServiceNames = std::vector<std::string>;

// The names of all services of the server, known once it is built.
std::shared_ptr<const ServiceNames> AddReflection(grpc::ServerBuilder& builder);

}  // namespace octavo
