#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "compat/reflection_v1.grpc.pb.h"
#include "compat/rpc_status.pb.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/rpc/auth.h"
#include "core/rpc/channel.h"
#include "core/rpc/server.h"
#include "core/rpc/status.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/impl/client_unary_call.h"
#include "grpcpp/impl/rpc_method.h"
#include "grpcpp/support/sync_stream.h"
#include "gtest/gtest.h"
#include "octavo/v1/service/jobs.grpc.pb.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using ::testing::Contains;
using ::testing::EndsWith;
using ::testing::HasSubstr;

// Answers Get with the failure that the id names, or with a job of that id.
class FailingJobs final : public v1::Jobs::Service {
 public:
  explicit FailingJobs(std::string token) : guard_(std::move(token)) {}
  grpc::Status Get(grpc::ServerContext* context, const v1::GetJobRequest* request,
                   v1::Job* job) override {
    if (grpc::Status refused = guard_.Check(*context); !refused.ok()) return refused;
    ++calls;
    if (request->id() == "slow") std::this_thread::sleep_for(milliseconds(300));
    if (request->id() == "throw") throw std::runtime_error("a handler of ours never throws");
    if (const auto reason = ReasonFromName(request->id())) {
      return ToGrpc(MakeError(*reason, message, {.file = "a.bin", .offset = 7}));
    }
    job->set_id(request->id());
    return grpc::Status::OK;
  }
  std::atomic<int> calls = 0;
  std::string message = "it failed";

 private:
  CallGuard guard_;
};

struct Fixture {
  explicit Fixture(const std::string& token = "") : service(token) {
    grpc::Service* services[] = {&service};
    auto started = RpcServer::Start({}, services);
    EXPECT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
  }
  absl::Status Get(const std::string& id, const std::string& token) {
    return FromGrpc(RawGet(id, token));
  }
  grpc::Status RawGet(const std::string& id, const std::string& token) {
    auto stub = v1::Jobs::NewStub(MakeChannel(server->address(), token));
    grpc::ClientContext context;
    SetTimeout(context, milliseconds(5000));
    v1::GetJobRequest request;
    request.set_id(id);
    v1::Job job;
    const grpc::Status status = stub->Get(&context, request, &job);
    EXPECT_EQ(job.id(), status.ok() ? id : "");
    return status;
  }
  FailingJobs service;
  std::unique_ptr<RpcServer> server;
};

TEST(RpcServer, MessagesMayHoldTheLargestCalibrationSet) {
  Fixture fixture;
  // 64 MiB of ids, and the rest of a request.
  EXPECT_TRUE(fixture.Get(std::string(65 << 20, 'a'), "").ok());
  EXPECT_EQ(fixture.service.calls, 1);
  const absl::Status status = fixture.Get(std::string(kGrpcMessageBytesMax, 'a'), "");
  EXPECT_EQ(ReasonOf(status), Reason::kBadRequest) << status;
  EXPECT_EQ(fixture.service.calls, 1);
}

TEST(RpcStatus, EveryReasonSurvivesTheWire) {
  Fixture fixture;
  for (const ReasonInfo& info : AllReasons()) {
    const absl::Status status = fixture.Get(std::string(info.name), "");
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(ReasonOf(status), info.reason) << info.name;
    EXPECT_EQ(status.code(), info.code) << info.name;
    EXPECT_EQ(ExitCodeOf(status), info.exit_code) << info.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr("file a.bin")) << info.name;
  }
  EXPECT_TRUE(fixture.Get("a-job", "").ok());
}

// What clients in any language read, without our FromGrpc.
TEST(RpcStatus, EveryReasonIsAnErrorInfoOnTheWire) {
  Fixture fixture;
  for (const ReasonInfo& info : AllReasons()) {
    const grpc::Status status = fixture.RawGet(std::string(info.name), "");
    EXPECT_EQ(static_cast<int>(status.error_code()), static_cast<int>(info.code)) << info.name;
    EXPECT_EQ(status.error_message(), "it failed: file a.bin, byte offset 7") << info.name;
    compat::RpcStatus details;
    ASSERT_TRUE(details.ParseFromString(status.error_details())) << info.name;
    EXPECT_EQ(details.code(), static_cast<int>(info.code)) << info.name;
    EXPECT_EQ(details.message(), status.error_message()) << info.name;
    ASSERT_EQ(details.details_size(), 1) << info.name;
    EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
    compat::ErrorInfo error;
    ASSERT_TRUE(error.ParseFromString(details.details(0).value())) << info.name;
    EXPECT_EQ(error.reason(), info.name);
    EXPECT_EQ(error.domain(), "octavo");
  }
}

// A client with default limits reads it all; before, it saw RESOURCE_EXHAUSTED and no reason.
TEST(RpcStatus, ALongMessageLosesItsMiddle) {
  Fixture fixture;
  for (const std::string letter : {"x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\xa6\xa6"}) {
    for (size_t more = 0; more < 4; ++more) {
      std::string what(more, 'a');
      while (what.size() < 300'000) what += letter;
      fixture.service.message = what;
      const absl::Status status = fixture.Get("BAD_REQUEST", "");
      EXPECT_EQ(ReasonOf(status), Reason::kBadRequest) << status;
      const std::string message(status.message());
      EXPECT_LE(message.size(), kStatusMessageBytesMax);
      EXPECT_GT(message.size(), kStatusMessageBytesMax - 8);
      EXPECT_TRUE(message.starts_with(what.substr(0, more) + letter));
      EXPECT_THAT(message, HasSubstr(letter + " [...] " + letter));
      EXPECT_THAT(message, EndsWith(letter + ": file a.bin, byte offset 7"));
    }
  }
}

TEST(RpcStatus, BareCodesMapToReasons) {
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_EQ(ReasonOf(FromGrpc(grpc::Status(grpc::StatusCode::UNAVAILABLE, "x"))),
            Reason::kUnreachable);
  EXPECT_EQ(ReasonOf(FromGrpc(grpc::Status(grpc::StatusCode::UNKNOWN, "x", "not a proto"))),
            Reason::kInternal);
}

TEST(RpcServer, NobodyThereIsUnreachable) {
  auto stub = v1::Jobs::NewStub(MakeChannel("127.0.0.1:1", ""));
  grpc::ClientContext context;
  SetTimeout(context, milliseconds(5000));
  v1::Job job;
  EXPECT_EQ(ReasonOf(FromGrpc(stub->Get(&context, v1::GetJobRequest(), &job))),
            Reason::kUnreachable);
}

TEST(RpcServer, TakenOrMalformedAddressIsATypedError) {
  Fixture fixture;
  auto second = RpcServer::Start({.listen = fixture.server->address()}, {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(ReasonOf(second.status()), Reason::kUsage);
  EXPECT_FALSE(RpcServer::Start({.listen = "nowhere"}, {}).ok());
}

TEST(RpcServer, StoppingWaitsForCallsAndNotForConnections) {
  Fixture fixture;
  const auto channel = MakeChannel(fixture.server->address(), "");
  const auto ask = [&](const std::string& id) {
    grpc::ClientContext context;
    SetTimeout(context, milliseconds(30'000));
    v1::GetJobRequest request;
    request.set_id(id);
    v1::Job job;
    return v1::Jobs::NewStub(channel)->Get(&context, request, &job);
  };
  EXPECT_TRUE(ask("connects").ok());
  std::thread slow([&] { EXPECT_TRUE(ask("slow").ok()); });
  while (fixture.service.calls < 2) std::this_thread::sleep_for(milliseconds(1));
  const auto begun = std::chrono::steady_clock::now();
  fixture.server->Stop(milliseconds(60'000));
  EXPECT_LT(std::chrono::steady_clock::now() - begun, milliseconds(30'000));
  slow.join();
  EXPECT_FALSE(ask("late").ok());
  EXPECT_EQ(fixture.service.calls, 2);
}

TEST(Auth, WrongOrMissingTokenNeverReachesTheHandler) {
  Fixture fixture("secret");
  for (const std::string token : {"", "wrong", "secre", "secrets", "secretsecret"}) {
    const absl::Status status = fixture.Get("a-job", token);
    ASSERT_FALSE(status.ok()) << token;
    EXPECT_EQ(ReasonOf(status), Reason::kUnauthenticated) << token;
  }
  EXPECT_EQ(fixture.service.calls, 0);
  EXPECT_TRUE(fixture.Get("a-job", "secret").ok());
  EXPECT_EQ(fixture.service.calls, 1);
}

grpc::ByteBuffer Bytes(const std::string& bytes) {
  grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}
std::string Text(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  return buffer.DumpToSingleSlice(&slice).ok()
             ? std::string(reinterpret_cast<const char*>(slice.begin()), slice.size())
             : std::string();
}

absl::Status GetOfBytes(const std::string& address, const std::string& bytes) {
  const auto channel = MakeChannel(address, "");
  const grpc::internal::RpcMethod method("/octavo.v1.Jobs/Get",
                                         grpc::internal::RpcMethod::NORMAL_RPC);
  grpc::ClientContext context;
  SetTimeout(context, milliseconds(5000));
  grpc::ByteBuffer response;
  return FromGrpc(
      grpc::internal::BlockingUnaryCall(channel.get(), method, &context, Bytes(bytes), &response));
}

TEST(RpcServer, WhatCannotBeReadIsABadRequest) {
  Fixture fixture;
  EXPECT_TRUE(GetOfBytes(fixture.server->address(), "\x0a\x02id").ok());
  EXPECT_EQ(fixture.service.calls, 1);
  // Cut short; not UTF-8; a surrogate; not a tag.
  for (const std::string bytes :
       {"\x0a\x05id", "\x0a\x02\xff\xfe", "\x0a\x03\xed\xa0\x80", "\x07"}) {
    const absl::Status status = GetOfBytes(fixture.server->address(), bytes);
    EXPECT_EQ(ReasonOf(status), Reason::kBadRequest) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("malformed"));
  }
  EXPECT_EQ(fixture.service.calls, 1);
}

TEST(RpcServer, AnExceptionIsABugOfOursAndSaysSo) {
  Fixture fixture;
  const grpc::Status status = fixture.RawGet("throw", "");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_FALSE(status.error_details().empty());
  EXPECT_EQ(ReasonOf(FromGrpc(status)), Reason::kInternal);
  EXPECT_TRUE(fixture.Get("a-job", "").ok());
}

// HealthCheckRequest is {service = 1}, HealthCheckResponse {status = 1}: SERVING 1, NOT_SERVING 2.
TEST(Health, WatchTellsEveryChangeWithoutAToken) {
  Fixture fixture("secret");
  auto channel = MakeChannel(fixture.server->address(), "");
  const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Watch",
                                         grpc::internal::RpcMethod::SERVER_STREAMING);
  grpc::ClientContext context;
  SetTimeout(context, milliseconds(10000));
  const std::string name = "octavo.v1.Jobs";
  std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> reader(
      grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(
          channel.get(), method, &context,
          Bytes(std::string("\x0a") + static_cast<char>(name.size()) + name)));
  grpc::ByteBuffer message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(Text(message), "\x08\x01");
  fixture.server->SetServing(name, false);
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(Text(message), "\x08\x02");
  fixture.server->SetServing(name, true);
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(Text(message), "\x08\x01");
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST(Reflection, V1ListsServicesAndDescribesThem) {
  Fixture fixture("secret");
  namespace r = grpc::reflection::v1;
  auto stub = r::ServerReflection::NewStub(MakeChannel(fixture.server->address(), ""));
  grpc::ClientContext context;
  SetTimeout(context, milliseconds(10000));
  auto stream = stub->ServerReflectionInfo(&context);
  r::ServerReflectionRequest request;
  request.set_list_services("*");
  ASSERT_TRUE(stream->Write(request));
  r::ServerReflectionResponse response;
  ASSERT_TRUE(stream->Read(&response));
  std::vector<std::string> names;
  for (const auto& service : response.list_services_response().service()) {
    names.push_back(service.name());
  }
  EXPECT_THAT(names, Contains("octavo.v1.Jobs"));
  EXPECT_THAT(names, Contains("grpc.reflection.v1.ServerReflection"));
  EXPECT_THAT(names, Contains("grpc.reflection.v1alpha.ServerReflection"));

  request.set_file_containing_symbol("octavo.v1.Jobs");
  ASSERT_TRUE(stream->Write(request));
  ASSERT_TRUE(stream->Read(&response));
  std::vector<std::string> files;
  for (const auto& bytes : response.file_descriptor_response().file_descriptor_proto()) {
    google::protobuf::FileDescriptorProto file;
    ASSERT_TRUE(file.ParseFromString(bytes));
    files.push_back(file.name());
  }
  ASSERT_FALSE(files.empty());
  EXPECT_EQ(files.front(), "octavo/v1/service/jobs.proto");
  EXPECT_THAT(files, Contains("octavo/v1/types.proto"));

  request.set_file_containing_symbol("octavo.v1.Nothing");
  ASSERT_TRUE(stream->Write(request));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

}  // namespace
}  // namespace octavo
