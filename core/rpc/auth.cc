#include "core/rpc/auth.h"

#include <cstddef>
#include <string_view>
#include <utility>

#include "core/base/error.h"
#include "core/rpc/status.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/status.h"

namespace octavo {
namespace {

// Time depends on the length of what the caller sent only.
bool SameBytes(std::string_view given, std::string_view expected) {
  unsigned difference = given.size() == expected.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    const char other = expected.empty() ? '\0' : expected[i % expected.size()];
    difference |= static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(other);
  }
  return difference == 0;
}

}  // namespace

CallGuard::CallGuard(std::string token)
    : expected_(token.empty() ? std::string() : "Bearer " + std::move(token)) {}

grpc::Status CallGuard::Check(const grpc::ServerContextBase& context) const {
  if (expected_.empty()) return grpc::Status::OK;
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("authorization");
  if (found != metadata.end() &&
      SameBytes(std::string_view(found->second.data(), found->second.size()), expected_)) {
    return grpc::Status::OK;
  }
  return ToGrpc(MakeError(
      Reason::kUnauthenticated,
      found == metadata.end() ? "the call carries no token" : "the token is not this cluster's", {},
      "Pass the token of the cluster"));
}

}  // namespace octavo
