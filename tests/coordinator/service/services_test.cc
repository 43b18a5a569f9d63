// The coordinator's services over a real connection: tokens, streams, errors.

#include "coordinator/service/services.h"

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "coordinator/control/control.h"
#include "core/base/error.h"
#include "core/rpc/channel.h"
#include "core/rpc/server.h"
#include "core/rpc/status.h"
#include "gmock/gmock.h"
#include "grpcpp/channel.h"
#include "gtest/gtest.h"
#include "octavo/v1/service/coordinator.grpc.pb.h"
#include "octavo/v1/service/inference.grpc.pb.h"
#include "octavo/v1/service/jobs.grpc.pb.h"
#include "tests/fakes/memory_state_store.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

class ServicesTest : public ::testing::Test {
 protected:
  ServicesTest() {
    ControlOptions options;
    options.beat_ms = 250;
    options.lease_ms = 1000;  // a busy machine may hold a test up
    auto control = Control::Start(options, &store_, &models_, &metrics_);
    EXPECT_TRUE(control.ok()) << control.status();
    control_ = *std::move(control);
    services_ = std::make_unique<CoordinatorServices>(control_.get(), "secret");
    const std::vector<grpc::Service*> all = services_->services();
    auto server = RpcServer::Start({}, all);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  ~ServicesTest() override {
    services_->Stop();
    server_->Stop(milliseconds(300));
  }

  std::shared_ptr<grpc::Channel> Channel(const std::string& token = "secret") {
    return MakeChannel(server_->address(), token);
  }
  static bool Eventually(const std::function<bool()>& done) {
    for (int i = 0; i < 1000 && !done(); ++i) std::this_thread::sleep_for(milliseconds(10));
    return done();
  }
  std::string StateOf(const std::string& worker) {
    const v1::ListWorkersResponse listed = control_->ListWorkers();
    for (const v1::WorkerInfo& info : listed.workers()) {
      if (info.hello().worker_id() == worker) return info.state();
    }
    return "";
  }

  MemoryStateStore store_;
  ModelTable models_;
  Metrics metrics_{MetricHome::kCoordinator, "test"};
  std::unique_ptr<Control> control_;
  std::unique_ptr<CoordinatorServices> services_;
  std::unique_ptr<RpcServer> server_;
};

// Calls one unary method; what came of it.
template <typename Stub, typename Request, typename Response>
absl::Status Call(Stub& stub,
                  grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*)) {
  grpc::ClientContext context;
  SetTimeout(context, milliseconds(5000));
  Response response;
  return FromGrpc((stub.*method)(&context, Request(), &response));
}

TEST_F(ServicesTest, EveryMethodRefusesAWrongToken) {
  for (const std::string token : {"", "wrong"}) {
    auto channel = Channel(token);
    v1::Jobs::Stub jobs(channel);
    v1::Models::Stub models(channel);
    v1::Cluster::Stub cluster(channel);
    v1::Coordinator::Stub coordinator(channel);
    std::vector<absl::Status> all = {
        Call(jobs, &v1::Jobs::Stub::Submit),
        Call(jobs, &v1::Jobs::Stub::Get),
        Call(jobs, &v1::Jobs::Stub::List),
        Call(jobs, &v1::Jobs::Stub::Cancel),
        Call(models, &v1::Models::Stub::List),
        Call(models, &v1::Models::Stub::Unload),
        Call(cluster, &v1::Cluster::Stub::ListWorkers),
        Call(cluster, &v1::Cluster::Stub::Drain),
        Call(cluster, &v1::Cluster::Stub::Undrain),
    };
    grpc::ClientContext watch_context;
    SetTimeout(watch_context, milliseconds(5000));
    all.push_back(FromGrpc(jobs.Watch(&watch_context, v1::WatchJobRequest())->Finish()));
    grpc::ClientContext load_context;
    SetTimeout(load_context, milliseconds(5000));
    all.push_back(FromGrpc(models.Load(&load_context, v1::LoadModelRequest())->Finish()));
    grpc::ClientContext attach_context;
    SetTimeout(attach_context, milliseconds(5000));
    all.push_back(FromGrpc(coordinator.Attach(&attach_context)->Finish()));
    for (const absl::Status& status : all) {
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(ReasonOf(status), Reason::kUnauthenticated) << status;
    }
    // A method added to a service must be added here.
    int methods = 0;
    for (const auto* service :
         {v1::Job::descriptor()->file()->pool()->FindServiceByName("octavo.v1.Jobs"),
          v1::Job::descriptor()->file()->pool()->FindServiceByName("octavo.v1.Models"),
          v1::Job::descriptor()->file()->pool()->FindServiceByName("octavo.v1.Cluster"),
          v1::Job::descriptor()->file()->pool()->FindServiceByName("octavo.v1.Coordinator")}) {
      ASSERT_NE(service, nullptr);
      methods += service->method_count();
    }
    EXPECT_EQ(methods, static_cast<int>(all.size()));
  }
}

TEST_F(ServicesTest, AWorkerAttachesIsWelcomedAndIsLostWhenItFallsSilent) {
  v1::Coordinator::Stub stub(Channel());
  grpc::ClientContext context;
  SetTimeout(context, milliseconds(20'000));
  auto stream = stub.Attach(&context);
  v1::Report report;
  report.mutable_hello()->set_worker_id("w");
  ASSERT_TRUE(stream->Write(report));
  v1::Directive directive;
  ASSERT_TRUE(stream->Read(&directive));
  EXPECT_EQ(directive.welcome().beat_ms(), 250u);
  EXPECT_EQ(directive.welcome().lease_ms(), 1000u);
  EXPECT_EQ(StateOf("w"), "ready");
  for (int i = 0; i < 10; ++i) {  // longer than the lease
    report.mutable_beat()->set_rss_peak_bytes(77);
    ASSERT_TRUE(stream->Write(report));
    std::this_thread::sleep_for(milliseconds(150));
  }
  EXPECT_EQ(StateOf("w"), "ready");
  EXPECT_TRUE(Eventually([&] { return StateOf("w") == "lost"; }));
  EXPECT_FALSE(stream->Read(&directive));  // the coordinator hung up
  EXPECT_FALSE(stream->Finish().ok());
}

TEST_F(ServicesTest, AClosedStreamIsALostWorkerAtOnce) {
  v1::Coordinator::Stub stub(Channel());
  auto context = std::make_unique<grpc::ClientContext>();
  SetTimeout(*context, milliseconds(20'000));
  auto stream = stub.Attach(context.get());
  v1::Report report;
  report.mutable_hello()->set_worker_id("w");
  ASSERT_TRUE(stream->Write(report));
  v1::Directive directive;
  ASSERT_TRUE(stream->Read(&directive));
  context->TryCancel();
  EXPECT_TRUE(Eventually([&] { return StateOf("w") == "lost"; }));
  EXPECT_EQ(metrics_.ValueOf(metric::kWorkersLost, {"stream"}) +
                metrics_.ValueOf(metric::kWorkersLost, {"lease"}),
            1);
  stream->Finish();
}

TEST_F(ServicesTest, TheFirstReportMustBeHello) {
  v1::Coordinator::Stub stub(Channel());
  grpc::ClientContext context;
  SetTimeout(context, milliseconds(5000));
  auto stream = stub.Attach(&context);
  v1::Report report;
  report.mutable_beat();
  ASSERT_TRUE(stream->Write(report));
  EXPECT_EQ(ReasonOf(FromGrpc(stream->Finish())), Reason::kBadRequest);
}

TEST_F(ServicesTest, UnknownThingsAreNotFoundAndBadRequestsAreRefused) {
  auto channel = Channel();
  v1::Jobs::Stub jobs(channel);
  v1::Models::Stub models(channel);
  EXPECT_EQ(ReasonOf(Call(jobs, &v1::Jobs::Stub::Get)), Reason::kNotFound);
  EXPECT_EQ(ReasonOf(Call(jobs, &v1::Jobs::Stub::Cancel)), Reason::kNotFound);
  EXPECT_EQ(ReasonOf(Call(jobs, &v1::Jobs::Stub::Submit)), Reason::kBadRequest);
  EXPECT_EQ(ReasonOf(Call(models, &v1::Models::Stub::Unload)), Reason::kNotFound);
  EXPECT_TRUE(Call(jobs, &v1::Jobs::Stub::List).ok());
  grpc::ClientContext context;
  SetTimeout(context, milliseconds(5000));
  EXPECT_EQ(ReasonOf(FromGrpc(jobs.Watch(&context, v1::WatchJobRequest())->Finish())),
            Reason::kNotFound);
}

TEST_F(ServicesTest, WatchAndLoadEndWithTheJobAndTheModel) {
  auto channel = Channel();
  v1::Jobs::Stub jobs(channel);
  v1::SubmitJobRequest request;
  request.mutable_quantize()->set_source_dir("/nowhere/source");
  request.mutable_quantize()->set_output_dir("/tmp/octavo-nowhere-out");
  request.mutable_quantize()->mutable_recipe()->add_rules();
  grpc::ClientContext submit_context;
  SetTimeout(submit_context, milliseconds(5000));
  v1::Job job;
  ASSERT_TRUE(jobs.Submit(&submit_context, request, &job).ok());
  grpc::ClientContext watch_context;
  SetTimeout(watch_context, milliseconds(10'000));
  v1::WatchJobRequest watch;
  watch.set_id(job.id());
  auto jobs_seen = jobs.Watch(&watch_context, watch);
  while (jobs_seen->Read(&job)) {
  }
  EXPECT_TRUE(jobs_seen->Finish().ok());
  EXPECT_EQ(job.state(), v1::JOB_FAILED);
  EXPECT_EQ(job.failure().reason(), "INPUT_MISSING");
  services_->Stop();  // ends what still runs
  v1::Models::Stub models(channel);
  grpc::ClientContext load_context;
  SetTimeout(load_context, milliseconds(10'000));
  v1::LoadModelRequest load;
  load.set_model_dir("/nowhere/model");
  auto loading = models.Load(&load_context, load);
  v1::ModelInfo model;
  ASSERT_TRUE(loading->Read(&model));
  EXPECT_EQ(model.state(), "loading");
  EXPECT_EQ(loading->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

}  // namespace
}  // namespace octavo
