#pragma once

// One shared token per cluster, as metadata "authorization: Bearer TOKEN" on every call.
// MakeChannel sends it; every handler checks it first:
//
//   if (grpc::Status refused = guard.Check(*context); !refused.ok()) return refused;
//
// (Insecure server credentials take no AuthMetadataProcessor and a server interceptor cannot refuse
// a call before its handler runs, so the check is a line in each handler; a test calls every method
// of every service without a token.) Health and reflection are open.

#include <string>

namespace grpc {
class ServerContextBase;
class Status;
}  // namespace grpc

namespace octavo {

class CallGuard {
 public:
  // An empty token lets every call through.
  explicit CallGuard(std::string token);

  // OK, or UNAUTHENTICATED with kUnauthenticated. Takes as long for a wrong token as for a right
  // one.
  grpc::Status Check(const grpc::ServerContextBase& context) const;

 private:
  std::string expected_;  // "Bearer TOKEN", or empty
};

}  // namespace octavo
