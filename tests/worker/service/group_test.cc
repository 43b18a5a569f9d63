// A serving group of real ranks (RankHost, Gloo, Engine service, streams) in one process, with a
// model of one rule in place of weights: after token t comes t + 1.

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/rpc/channel.h"
#include "core/rpc/server.h"
#include "core/rpc/status.h"
#include "grpcpp/channel.h"
#include "gtest/gtest.h"
#include "octavo/v1/service/engine.grpc.pb.h"
#include "tests/fakes/eventually.h"
#include "worker/serve/rank_host.h"
#include "worker/service/engine_service.h"
#include "worker/service/follow_streams.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using Steady = std::chrono::steady_clock;

constexpr int64_t kVocab = 1000;

class Cluster;
struct Rank {
  Rank(Cluster* cluster, size_t index);
  Metrics metrics{MetricHome::kWorker, "worker"};
  std::atomic<bool> stuck = false;
  std::atomic<float> certainty = 9.0f;
  std::unique_ptr<RankHost> host;
  std::unique_ptr<grpc::Service> service;
  std::unique_ptr<RpcServer> server;
};

// Plays the coordinator: rendezvous and reports.
class Cluster {
 public:
  explicit Cluster(size_t size) {
    char dir[] = "/tmp/octavo_group_XXXXXX";
    dir_ = mkdtemp(dir);
    for (size_t i = 0; i < size; ++i) ranks.push_back(std::make_unique<Rank>(this, i));
  }
  ~Cluster() {
    for (auto& rank : ranks) rank->host->Detached();
    for (auto& rank : ranks) rank->server.reset();
    for (auto& rank : ranks) rank->host.reset();
    std::filesystem::remove_all(dir_);
  }

  void Load(uint64_t epoch) {
    for (size_t i = 0; i < ranks.size(); ++i) {
      v1::LoadRank load;
      load.set_group_epoch(epoch);
      load.set_model_id("rule");
      load.set_model_dir(dir_);
      load.set_rank(static_cast<uint32_t>(i));
      v1::ServePlan& plan = *load.mutable_plan();
      plan.set_rank_count(static_cast<uint32_t>(ranks.size()));
      plan.set_max_model_len(4096);
      plan.set_max_batched_tokens(256);
      plan.set_max_sequences(4);
      plan.mutable_model()->set_vocab_size(kVocab);
      for (size_t rank = 0; rank < ranks.size(); ++rank) plan.add_ranks();
      for (auto& rank : ranks) load.add_engine_addresses(rank->server->address());
      ranks[i]->host->Load(load);
    }
  }

  void Abort(uint64_t epoch) {
    v1::AbortGroup abort;
    abort.set_group_epoch(epoch);
    abort.set_why("rank 1 was lost");
    for (auto& rank : ranks) rank->host->AbortGroup(abort);
  }

  void Hear(size_t from, const v1::Report& report) {
    std::vector<std::pair<size_t, v1::RendezvousValue>> answers;
    {
      MutexLock lock(mutex_);
      if (report.has_rank()) ++states_[{report.rank().group_epoch(), report.rank().state()}];
      if (report.has_put()) {
        values_[{report.put().group_epoch(), report.put().key()}] = report.put().value();
      }
      if (report.has_get()) waiting_.emplace_back(from, report.get());
      std::erase_if(waiting_, [&](const auto& wait) {
        const auto it = values_.find({wait.second.group_epoch(), wait.second.key()});
        if (it == values_.end()) return false;
        v1::RendezvousValue value;
        value.set_group_epoch(wait.second.group_epoch());
        value.set_call(wait.second.call());
        value.set_value(it->second);
        answers.emplace_back(wait.first, value);
        return true;
      });
    }
    for (const auto& [to, value] : answers) ranks[to]->host->Deliver(value);
  }

  int Count(uint64_t epoch, v1::RankState state) {
    MutexLock lock(mutex_);
    return states_[{epoch, state}];
  }

  bool Ready(uint64_t epoch) {
    return Eventually(
        [&] { return Count(epoch, v1::RANK_READY) == static_cast<int>(ranks.size()); });
  }

  std::unique_ptr<v1::Engine::Stub> Leader() {
    return v1::Engine::NewStub(MakeChannel(ranks[0]->server->address(), "t"));
  }

  const std::string& dir() const { return dir_; }
  std::vector<std::unique_ptr<Rank>> ranks;

 private:
  std::string dir_;
  Mutex mutex_;
  std::map<std::pair<uint64_t, std::string>, std::string> values_;
  std::vector<std::pair<size_t, v1::RendezvousGet>> waiting_;
  std::map<std::pair<uint64_t, v1::RankState>, int> states_;
};

absl::Status RunRule(const Rank& rank, Communicator& group, const v1::Step& step, Logits* out) {
  while (rank.stuck) std::this_thread::sleep_for(milliseconds(1));
  if (absl::Status met = group.Barrier(); !met.ok()) return met;
  std::this_thread::sleep_for(milliseconds(1));
  *out = {.rows = 0, .vocab = kVocab, .values = {}};
  for (const v1::StepChunk& chunk : step.chunks()) {
    for (int i = 0; i < chunk.tokens_size(); ++i) {
      if (!chunk.logits_all() && !(chunk.logits_last() && i + 1 == chunk.tokens_size())) continue;
      std::vector<float> row(kVocab);
      row[static_cast<size_t>((chunk.tokens(i) + 1) % kVocab)] = rank.certainty;
      out->values.insert(out->values.end(), row.begin(), row.end());
      ++out->rows;
    }
  }
  return absl::OkStatus();
}

Rank::Rank(Cluster* cluster, size_t index) {
  RankHost::Options options;
  options.host = "127.0.0.1";
  options.load = [this](const v1::LoadRank&, Communicator* group) -> absl::StatusOr<RankModel> {
    return RankModel{
        .run = [this, group](const v1::Step& step,
                             Logits* out) { return RunRule(*this, *group, step, out); },
        .kv_block_count = 128,
        .weight_bytes = 7};
  };
  options.link = [](const std::vector<std::string>& addresses) {
    return MakeFollowerLink(addresses, "t");
  };
  host = std::make_unique<RankHost>(
      std::move(options),
      [cluster, index](const v1::Report& report) { cluster->Hear(index, report); }, &metrics);
  service = MakeEngineService(host.get(), &metrics, "t");
  grpc::Service* services[] = {service.get()};
  server = *RpcServer::Start({}, services);
}

struct Answer {
  std::vector<int32_t> ids;
  v1::FinishReason finish = v1::FINISH_UNSPECIFIED;
  absl::Status status;
};

Answer Generate(v1::Engine::Stub& stub, int32_t first, uint32_t count,
                grpc::ClientContext* context = nullptr, std::atomic<int>* seen = nullptr) {
  grpc::ClientContext own;
  if (context == nullptr) context = &own;
  v1::EngineRequest request;
  request.add_prompt(first);
  request.set_max_tokens(count);
  auto reader = stub.Generate(context, request);
  Answer answer;
  v1::EngineEvent event;
  while (reader->Read(&event)) {
    for (const auto& token : event.tokens()) answer.ids.push_back(token.id());
    if (seen != nullptr) *seen = static_cast<int>(answer.ids.size());
    answer.finish = event.finish();
  }
  answer.status = FromGrpc(reader->Finish());
  return answer;
}

TEST(Group, OneAndThreeRanksGenerate) {
  for (const size_t size : {1u, 3u}) {
    Cluster cluster(size);
    cluster.Load(1);
    ASSERT_TRUE(cluster.Ready(1));
    auto stub = cluster.Leader();
    const Answer answer = Generate(*stub, 41, 3);
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.ids, (std::vector<int32_t>{42, 43, 44}));
    EXPECT_EQ(answer.finish, v1::FINISH_LENGTH);
    for (auto& rank : cluster.ranks) {
      EXPECT_TRUE(Eventually([&] { return rank->metrics.ValueOf(metric::kEngineRunning) == 0; }));
      EXPECT_EQ(rank->metrics.ValueOf(metric::kGroupEpoch), 1);
      EXPECT_EQ(rank->metrics.ValueOf(metric::kEngineSteps, {"decode"}), 3);
    }
  }
}

TEST(Group, AStuckRankFailsTheRequestOnAbortAndTheGroupFormsAgain) {
  Cluster cluster(2);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  std::atomic<int> seen = 0;
  Answer answer;
  std::jthread client([&] { answer = Generate(*stub, 1, 3000, nullptr, &seen); });
  ASSERT_TRUE(Eventually([&] { return seen > 5; }));
  cluster.ranks[1]->stuck = true;
  std::this_thread::sleep_for(milliseconds(50));
  const auto start = Steady::now();
  cluster.Abort(1);
  client.join();
  EXPECT_LT(Steady::now() - start, milliseconds(1000));
  EXPECT_EQ(ReasonOf(answer.status), Reason::kGroupLost);
  EXPECT_NE(std::string(answer.status.message()).find("rank 1 was lost"), std::string::npos);
  cluster.ranks[1]->stuck = false;
  ASSERT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_UNLOADED) == 2; }));
  EXPECT_EQ(ReasonOf(Generate(*stub, 1, 3).status), Reason::kNotReady);
  cluster.Load(2);
  ASSERT_TRUE(cluster.Ready(2));
  EXPECT_EQ(Generate(*stub, 7, 2).ids, (std::vector<int32_t>{8, 9}));
}

TEST(Group, ARankThatLeavesBreaksTheGroupAtOnce) {
  Cluster cluster(2);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  std::atomic<int> seen = 0;
  Answer answer;
  std::jthread client([&] { answer = Generate(*stub, 1, 3000, nullptr, &seen); });
  ASSERT_TRUE(Eventually([&] { return seen > 5; }));
  const auto start = Steady::now();
  cluster.ranks[1]->host->Detached();
  client.join();
  EXPECT_LT(Steady::now() - start, milliseconds(1500));
  EXPECT_EQ(ReasonOf(answer.status), Reason::kGroupLost);
  EXPECT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_FAILED) == 1; }));
}

TEST(Group, AnAbortEndsAGroupThatIsStillForming) {
  Cluster cluster(2);
  v1::AbortGroup abort;
  abort.set_group_epoch(1);
  cluster.ranks[0]->host->AbortGroup(abort);
  cluster.Load(1);  // rank 0 refuses; rank 1 waits for it
  ASSERT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_FAILED) == 1; }));
  cluster.Abort(1);
  ASSERT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_FAILED) == 2; }));
  EXPECT_EQ(cluster.Count(1, v1::RANK_READY), 0);
  cluster.Load(2);
  EXPECT_TRUE(cluster.Ready(2));
}

TEST(Group, ACancelledCallStopsTheSequence) {
  Cluster cluster(1);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  grpc::ClientContext context;
  std::atomic<int> seen = 0;
  std::jthread client([&] { Generate(*stub, 1, 3000, &context, &seen); });
  ASSERT_TRUE(Eventually([&] { return seen > 5; }));
  context.TryCancel();
  client.join();
  EXPECT_EQ(Generate(*stub, 7, 1).ids, (std::vector<int32_t>{8}));
  const Metrics& metrics = cluster.ranks[0]->metrics;
  EXPECT_LT(metrics.ValueOf(metric::kEngineSteps, {"decode"}), 2000);
  EXPECT_EQ(metrics.ValueOf(metric::kEngineRequests, {"CANCELLED"}), 1);
}

TEST(Group, ADeadlineEndsAScore) {
  Cluster cluster(1);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  v1::EngineScoreRequest score;
  for (int i = 0; i < 900; ++i) score.add_ids(i);
  score.set_chunk(1);
  grpc::ClientContext context;
  SetTimeout(context, milliseconds(100));
  v1::EngineScoreResponse response;
  EXPECT_EQ(ReasonOf(FromGrpc(stub->Score(&context, score, &response))), Reason::kDeadline);
  score.mutable_ids()->Truncate(20);
  grpc::ClientContext second;
  EXPECT_TRUE(stub->Score(&second, score, &response).ok());
  EXPECT_EQ(response.logprobs_size(), 19);
}

absl::Status Compare(Cluster& model, const std::string& reference, bool reference_first, int count,
                     v1::Comparison* result) {
  v1::EngineCompareRequest request;
  for (int i = 0; i < count; ++i) request.add_ids(i % 7 == 0 ? 3 : i);
  request.set_reference_address(reference);
  request.set_reference_first(reference_first);
  grpc::ClientContext context;
  SetTimeout(context, milliseconds(20'000));
  return FromGrpc(model.Leader()->Compare(&context, request, result));
}

TEST(Group, TwoGroupsAreComparedInBothDirectionsAtOnce) {
  Cluster a(1), b(2);
  b.ranks[0]->certainty = 8.0f;
  for (Cluster* cluster : {&a, &b}) cluster->Load(1);
  ASSERT_TRUE(a.Ready(1) && b.Ready(1));
  // Sequences of several chunks: each comparison holds one engine while it waits for the other.
  v1::Comparison ab, ba;
  const std::string at_a = a.ranks[0]->server->address(), at_b = b.ranks[0]->server->address();
  for (int round = 0; round < 5; ++round) {
    absl::Status other;
    std::jthread thread([&] { other = Compare(b, at_a, true, 600, &ba); });
    const absl::Status one = Compare(a, at_b, false, 600, &ab);
    thread.join();
    ASSERT_TRUE(one.ok() && other.ok()) << one << other;
  }
  const auto sure = [](double certainty) { return std::log(999.0 + std::exp(certainty)); };
  ASSERT_EQ(ab.divergences_size(), 599);
  EXPECT_NEAR(ab.divergences(300), sure(9) - sure(8) - std::exp(8 - sure(8)), 1e-6);
  EXPECT_NEAR(ab.logprobs(1), 9 - sure(9), 1e-5);  // 1, then 2
  EXPECT_NEAR(ab.reference_logprobs(1), 8 - sure(8), 1e-5);
  for (int i = 0; i < 599; ++i) EXPECT_EQ(ab.logprobs(i), ba.reference_logprobs(i));
}

TEST(Group, AComparisonFailsWithAReasonAndFreesTheEngine) {
  Cluster a(1), idle(1);
  a.Load(1);
  ASSERT_TRUE(a.Ready(1));
  v1::Comparison result;
  const std::string at_idle = idle.ranks[0]->server->address(), nowhere = "127.0.0.1:1";
  EXPECT_EQ(ReasonOf(Compare(a, at_idle, true, 30, &result)), Reason::kNotReady);
  EXPECT_EQ(ReasonOf(Compare(a, nowhere, false, 600, &result)), Reason::kGroupLost);
  EXPECT_EQ(ReasonOf(Compare(a, nowhere, false, 1, &result)), Reason::kBadRequest);
  EXPECT_EQ(ReasonOf(Compare(a, nowhere, false, 1100, &result)), Reason::kBadRequest);  // id 1000
  EXPECT_EQ(Generate(*a.Leader(), 7, 1).ids, (std::vector<int32_t>{8}));
}

TEST(Group, GivesArtifactsByName) {
  Cluster cluster(1);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  const std::string text(3'000'000, 'x');
  std::ofstream(cluster.dir() + "/tokenizer.json") << text;
  auto stub = cluster.Leader();
  const auto fetch = [&](const std::string& name, std::string& bytes) {
    grpc::ClientContext context;
    v1::GetArtifactRequest request;
    request.set_model_id("rule");
    request.set_name(name);
    auto reader = stub->GetArtifact(&context, request);
    v1::ArtifactChunk chunk;
    uint64_t size = 0;
    while (reader->Read(&chunk)) {
      if (chunk.has_digest()) {
        size = chunk.size();
        EXPECT_EQ(chunk.digest().low(), DigestOf(text).low);
      }
      bytes += chunk.data();
    }
    EXPECT_EQ(bytes.size(), size);
    return FromGrpc(reader->Finish());
  };
  std::string bytes;
  EXPECT_TRUE(fetch("tokenizer.json", bytes).ok());
  EXPECT_EQ(bytes, text);
  std::string none;
  EXPECT_EQ(ReasonOf(fetch("generation_config.json", none)), Reason::kInputMissing);
  EXPECT_EQ(ReasonOf(fetch("../secret", none)), Reason::kBadRequest);
}

TEST(Group, CallsWithoutTheTokenAreRefused) {
  Cluster cluster(1);
  auto stub = v1::Engine::NewStub(MakeChannel(cluster.ranks[0]->server->address(), "wrong"));
  EXPECT_EQ(ReasonOf(Generate(*stub, 1, 1).status), Reason::kUnauthenticated);
}

}  // namespace
}  // namespace octavo
