#include "core/rpc/bare_status.h"

#include "core/base/error.h"
#include "core/rpc/status.h"
#include "grpcpp/support/server_interceptor.h"

namespace octavo {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerInterceptorFactoryInterface;
using grpc::experimental::ServerRpcInfo;

grpc::Status WithReason(const grpc::Status& status) {
  // What gRPC's protobuf traits say of bytes that do not parse, and nothing else of ours or theirs.
  if (status.error_code() == grpc::StatusCode::INTERNAL && status.error_message().empty()) {
    return ToGrpc(MakeError(Reason::kBadRequest,
                            "the request cannot be read: it is malformed, or a string in it is not "
                            "UTF-8"));
  }
  return ToGrpc(FromGrpc(status));
}

class ReasonGiver final : public Interceptor {
 public:
  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      const grpc::Status status = methods->GetSendStatus();
      if (!status.ok() && status.error_details().empty()) {
        methods->ModifySendStatus(WithReason(status));
      }
    }
    methods->Proceed();
  }
};

class Factory final : public ServerInterceptorFactoryInterface {
 public:
  Interceptor* CreateServerInterceptor(ServerRpcInfo*) override { return new ReasonGiver; }
};

}  // namespace

std::unique_ptr<ServerInterceptorFactoryInterface> ReasonGivers() {
  return std::make_unique<Factory>();
}

}  // namespace octavo
