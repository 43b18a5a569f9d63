#include "core/rpc/status.h"

#include <string>
#include <string_view>

#include "compat/rpc_status.pb.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "grpcpp/support/status.h"

namespace octavo {
namespace {

constexpr char kErrorInfoType[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kDomain[] = "octavo";
constexpr std::string_view kLeftOut = " [...] ";

// The first byte of the character that byte `at` of UTF-8 belongs to, or of the next one.
size_t CharacterAt(std::string_view text, size_t at, bool next) {
  while (at > 0 && at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) {
    next ? ++at : --at;
  }
  return at;
}

std::string ShortEnough(std::string_view message) {
  if (message.size() <= kStatusMessageBytesMax) return std::string(message);
  const size_t room = kStatusMessageBytesMax - kLeftOut.size();
  const size_t head = CharacterAt(message, room * 2 / 3, /*next=*/false);
  const size_t tail = CharacterAt(message, message.size() - room / 3, /*next=*/true);
  std::string text(message.substr(0, head));
  text += kLeftOut;
  text += message.substr(tail);
  return text;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message = ShortEnough({status.message().data(), status.message().size()});
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
  // What gRPC says of a message beyond kGrpcMessageBytesMax, on either side.
  if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED &&
      status.error_message().find("larger than max") != std::string::npos) {
    return MakeError(Reason::kBadRequest, status.error_message(), {}, "send less at once");
  }
  const absl::Status bare(static_cast<absl::StatusCode>(status.error_code()),
                          status.error_message());
  return MakeError(ReasonOf(bare), status.error_message());
}

}  // namespace octavo
