#include "core/rpc/status.h"

#include <string>

#include "compat/rpc_status.pb.h"
#include "core/base/error.h"
#include "grpcpp/support/status.h"

namespace octavo {
namespace {

constexpr char kErrorInfoType[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kDomain[] = "octavo";

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message(status.message());
  compat::ErrorInfo info;
  info.set_reason(std::string(InfoOf(ReasonOf(status)).name));
  info.set_domain(kDomain);
  compat::RpcStatus details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  auto* any = details.add_details();
  any->set_type_url(kErrorInfoType);
  info.SerializeToString(any->mutable_value());
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      details.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  compat::RpcStatus details;
  if (!status.error_details().empty() && details.ParseFromString(status.error_details())) {
    for (const auto& any : details.details()) {
      compat::ErrorInfo info;
      if (any.type_url() != kErrorInfoType || !info.ParseFromString(any.value())) continue;
      if (info.domain() != kDomain) continue;
      if (const auto reason = ReasonFromName(info.reason())) {
        return MakeError(*reason, status.error_message());
      }
    }
  }
  const absl::Status bare(static_cast<absl::StatusCode>(status.error_code()),
                          status.error_message());
  return MakeError(ReasonOf(bare), status.error_message());
}

}  // namespace octavo
