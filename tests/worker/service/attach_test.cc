#include <atomic>
#include <chrono>
#include <thread>

#include "core/base/error.h"
#include "core/rpc/auth.h"
#include "core/rpc/server.h"
#include "gtest/gtest.h"
#include "octavo/v1/service/coordinator.grpc.pb.h"
#include "tests/fakes/eventually.h"
#include "worker/service/attach_client.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

// Welcomes every worker, counts its beats, and hangs up when told.
class FakeCoordinator final : public v1::Coordinator::Service {
 public:
  grpc::Status Attach(grpc::ServerContext* context,
                      grpc::ServerReaderWriter<v1::Directive, v1::Report>* stream) override {
    if (grpc::Status refused = guard.Check(*context); !refused.ok()) return refused;
    v1::Report report;
    if (!stream->Read(&report) || !report.has_hello()) return grpc::Status::CANCELLED;
    EXPECT_EQ(report.hello().worker_id(), "w1");
    ++hellos;
    v1::Directive welcome;
    welcome.mutable_welcome()->set_beat_ms(10);
    welcome.mutable_welcome()->set_lease_ms(2000);
    stream->Write(welcome);
    v1::Directive revoke;
    revoke.mutable_revoke()->set_job_id("job");
    stream->Write(revoke);
    const int lives = hang_ups;
    while (lives == hang_ups && stream->Read(&report)) {
      beats += report.has_beat();
      if (report.beat().sent_nanos() != 0) {
        v1::Directive echo;
        echo.mutable_echo()->set_sent_nanos(report.beat().sent_nanos());
        stream->Write(echo);
      }
      wants += report.has_want();
    }
    return grpc::Status::OK;
  }

  CallGuard guard{"secret"};
  std::atomic<int> hellos = 0;
  std::atomic<int> beats = 0;
  std::atomic<int> wants = 0;
  std::atomic<int> hang_ups = 0;
};

struct Seen {
  std::atomic<int> attached = 0;
  std::atomic<int> detached = 0;
  std::atomic<int> directives = 0;
  std::atomic<int> fatal = 0;
  std::atomic<int> echoed = 0;
  AttachClient::Handlers handlers() {
    return {.attached = [this] { ++attached; },
            .detached = [this](const absl::Status&) { ++detached; },
            .echoed =
                [this](std::chrono::nanoseconds took) {
                  EXPECT_GT(took.count(), 0);
                  EXPECT_LT(took, milliseconds(20'000));
                  ++echoed;
                },
            .directive =
                [this](const v1::Directive& d) {
                  EXPECT_FALSE(d.has_echo());
                  directives += d.has_revoke();
                },
            .fatal =
                [this](const absl::Status& status) {
                  EXPECT_EQ(ReasonOf(status), Reason::kUnauthenticated);
                  ++fatal;
                }};
  }
};

AttachClient::Options OptionsFor(const std::string& address, const std::string& token) {
  AttachClient::Options options{.coordinator = address, .token = token, .hello = {}};
  options.hello.set_worker_id("w1");
  return options;
}

TEST(AttachClient, AttachesBeatsAndAttachesAgain) {
  FakeCoordinator service;
  grpc::Service* services[] = {&service};
  auto server = *RpcServer::Start({}, services);
  Seen seen;
  AttachClient client(OptionsFor(server->address(), "secret"), seen.handlers());
  client.Start();
  ASSERT_TRUE(Eventually([&] { return service.beats > 3; }));
  EXPECT_EQ(seen.attached, 1);
  EXPECT_TRUE(Eventually([&] { return seen.directives == 1; }));
  EXPECT_TRUE(Eventually([&] { return seen.echoed > 0; }));
  EXPECT_LT(seen.echoed, service.beats);
  v1::Report want;
  want.mutable_want()->set_count(1);
  client.Send(want);
  EXPECT_TRUE(Eventually([&] { return service.wants == 1; }));
  ++service.hang_ups;
  ASSERT_TRUE(Eventually([&] { return seen.attached == 2; }));
  EXPECT_EQ(seen.detached, 1);
  EXPECT_EQ(service.hellos, 2);
  client.Stop();
  client.Send(want);
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(service.wants, 1);
}

TEST(AttachClient, DialsUntilTheCoordinatorIsThere) {
  std::string address;
  {
    FakeCoordinator service;
    grpc::Service* services[] = {&service};
    address = (*RpcServer::Start({}, services))->address();
  }
  Seen seen;
  AttachClient client(OptionsFor(address, "secret"), seen.handlers());
  client.Start();
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_EQ(seen.attached, 0);
  FakeCoordinator service;
  grpc::Service* services[] = {&service};
  auto server = RpcServer::Start({.listen = address}, services);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_TRUE(Eventually([&] { return seen.attached == 1; }));
  client.Stop();
}

TEST(AttachClient, AWrongTokenIsFatal) {
  FakeCoordinator service;
  grpc::Service* services[] = {&service};
  auto server = *RpcServer::Start({}, services);
  Seen seen;
  AttachClient client(OptionsFor(server->address(), "wrong"), seen.handlers());
  client.Start();
  EXPECT_TRUE(Eventually([&] { return seen.fatal == 1; }));
  EXPECT_EQ(seen.attached, 0);
}

}  // namespace
}  // namespace octavo
