#include "core/rpc/server.h"

#include <mutex>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/rpc/bare_status.h"
#include "core/rpc/call_count.h"
#include "core/rpc/grpc_setup.h"
#include "core/rpc/reflection.h"
#include "fmt/format.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/support/server_interceptor.h"

namespace octavo {

struct RpcServer::State {
  std::unique_ptr<grpc::Server> server;
  CallCount calls;
  bool stopped = false;
};

RpcServer::RpcServer() : state_(std::make_unique<State>()) {}
RpcServer::~RpcServer() { Stop(std::chrono::milliseconds(0)); }

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const ServerOptions& options, std::span<grpc::Service* const> services) {
  SetUpGrpc();
  static std::once_flag once;
  std::call_once(once, [] { grpc::EnableDefaultHealthCheckService(true); });

  const size_t colon = options.listen.rfind(':');
  if (colon == std::string::npos) {
    return MakeError(Reason::kUsage, fmt::format("'{}' is not host:port", options.listen));
  }
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(kGrpcMessageBytesMax);
  builder.SetMaxSendMessageSize(kGrpcMessageBytesMax);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients ping every 10 s (channel.cc), also while a long prefill sends no frames.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 64 << 10);
  for (grpc::Service* service : services) builder.RegisterService(service);
  const auto names = AddReflection(builder);
  std::unique_ptr<RpcServer> out(new RpcServer());
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(ReasonGivers());
  interceptors.push_back(out->state_->calls.Counter());
  builder.experimental().SetInterceptorCreators(std::move(interceptors));

  out->state_->server = builder.BuildAndStart();
  if (out->state_->server == nullptr || port == 0) {
    return MakeError(Reason::kUsage, fmt::format("cannot listen on {}", options.listen), {},
                     "Choose a free port, or port 0 for any");
  }
  out->address_ = fmt::format("{}:{}", options.listen.substr(0, colon), port);
  for (const std::string& name : *names) out->SetServing(name, true);
  out->SetServing("", true);
  return out;
}

void RpcServer::SetServing(const std::string& service, bool serving) {
  auto* health = state_->server->GetHealthCheckService();
  if (health == nullptr) return;
  if (service.empty()) {
    health->SetServingStatus(serving);
  } else {
    health->SetServingStatus(service, serving);
  }
}

void RpcServer::Stop(std::chrono::milliseconds grace) {
  if (state_->server == nullptr || state_->stopped) return;
  state_->stopped = true;
  if (auto* health = state_->server->GetHealthCheckService()) health->Shutdown();
  state_->calls.AwaitNone(grace);
  state_->server->Shutdown(std::chrono::system_clock::now());
  state_->server->Wait();
}

}  // namespace octavo
