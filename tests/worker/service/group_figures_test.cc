// What ranks of a serving group tell of themselves as metrics.

#include <limits>

#include "tests/worker/service/group_fixture.h"

namespace octavo {
namespace {

double ValueOf(const Cluster& cluster, size_t rank, const MetricDef& def,
               Metrics::Labels labels = {}) {
  return cluster.ranks[rank]->metrics.ValueOf(def, labels);
}

// A prompt of `length` ids that begins with its own one, so that it shares no block.
Answer Ask(v1::Engine::Stub& stub, int32_t own, int length, uint32_t count) {
  v1::EngineRequest request;
  for (int i = 0; i < length; ++i) request.add_prompt((own + i * 7) % static_cast<int32_t>(kVocab));
  request.set_max_tokens(count);
  grpc::ClientContext context;
  auto reader = stub.Generate(&context, request);
  Answer answer;
  v1::EngineEvent event;
  while (reader->Read(&event)) {
    for (const auto& token : event.tokens()) answer.ids.push_back(token.id());
  }
  answer.status = FromGrpc(reader->Finish());
  return answer;
}

TEST(GroupFigures, TellWhatStepsAndCollectivesTook) {
  Cluster cluster(3);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  ASSERT_TRUE(Generate(*stub, 41, 1).status.ok());
  ASSERT_EQ(Ask(*stub, 5, 100, 3).ids.size(), 3u);
  const auto leader = [&](const MetricDef& def, Metrics::Labels labels = {}) {
    return ValueOf(cluster, 0, def, labels);
  };
  EXPECT_TRUE(Eventually([&] { return leader(metric::kEngineDecodeSeconds) == 1; }));
  EXPECT_EQ(leader(metric::kEnginePrefillSeconds), 2);
  EXPECT_EQ(leader(metric::kEngineQueueSeconds), 2);
  EXPECT_EQ(leader(metric::kEngineTokens, {"prefill"}), 100);
  EXPECT_EQ(leader(metric::kEngineTokens, {"decode"}), 3);
  EXPECT_EQ(leader(metric::kEngineSteps, {"prefill"}), 1);
  EXPECT_TRUE(Eventually([&] { return leader(metric::kEnginePromptTokens, {"compute"}) == 101; }));
  EXPECT_EQ(leader(metric::kEnginePromptTokens, {"replay"}), 0);
  for (const char* phase :
       {"schedule", "prepare", "compute", "collective", "collect", "sample", "emit"}) {
    EXPECT_TRUE(Eventually([&] { return leader(metric::kEnginePhaseSeconds, {phase}) > 0; }))
        << phase;
  }
  for (size_t rank = 0; rank < 3; ++rank) {
    // One barrier a step, and a step sleeps for a millisecond outside of it.
    EXPECT_TRUE(Eventually(
        [&] { return ValueOf(cluster, rank, metric::kCollectiveSeconds, {"barrier"}) == 4; }));
    EXPECT_EQ(ValueOf(cluster, rank, metric::kCollectiveSeconds, {"all_gather"}), 0);
    EXPECT_TRUE(Eventually(
        [&] { return ValueOf(cluster, rank, metric::kEnginePhaseSeconds, {"compute"}) >= 0.004; }));
    EXPECT_EQ(ValueOf(cluster, rank, metric::kEnginePhaseSeconds, {"sample"}) > 0, rank == 0);
  }
}

TEST(GroupFigures, TellWhatOthersWaitedForTheSlowest) {
  Cluster cluster(3);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  cluster.ranks[1]->late = milliseconds(30);
  ASSERT_EQ(Ask(*stub, 5, 4, 3).ids.size(), 3u);
  const Metrics& leader = cluster.ranks[0]->metrics;
  EXPECT_TRUE(Eventually([&] { return leader.ValueOf(metric::kRankSkew) == 3; }));
  EXPECT_GT(leader.SumOf(metric::kRankSkew), 3 * 0.015);
  EXPECT_EQ(ValueOf(cluster, 1, metric::kRankSkew), 0);
}

TEST(GroupFigures, FollowAGroupFromLoadingToItsEnd) {
  Cluster cluster(2);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  EXPECT_EQ(ValueOf(cluster, 0, metric::kGroupSize, {"rule"}), 2);
  EXPECT_EQ(ValueOf(cluster, 1, metric::kGroupSize, {"rule"}), 2);
  EXPECT_EQ(ValueOf(cluster, 1, metric::kWeightBytes, {"rule", "bf16"}), 7);
  EXPECT_EQ(ValueOf(cluster, 1, metric::kWeightBytes, {"rule", "fp8"}), 5);
  EXPECT_EQ(ValueOf(cluster, 1, metric::kWeightBytes, {"rule", "int8"}), 0);
  // 128 blocks of 32, sequences of 4,096.
  EXPECT_EQ(ValueOf(cluster, 0, metric::kKvConcurrency, {"rule"}), 1);
  EXPECT_EQ(ValueOf(cluster, 1, metric::kKvConcurrency, {"rule"}), 0);
  const auto states = [&] {
    std::vector<double> values;
    for (const char* state : {"loading", "serving", "draining"}) {
      values.push_back(ValueOf(cluster, 0, metric::kEngineState, {"rule", state}));
    }
    return values;
  };
  EXPECT_EQ(states(), (std::vector<double>{0, 1, 0}));
  cluster.Drain(1);
  EXPECT_EQ(states(), (std::vector<double>{0, 0, 1}));
  cluster.Abort(1);
  ASSERT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_UNLOADED) == 2; }));
  EXPECT_EQ(states(), (std::vector<double>{0, 0, 0}));
  for (size_t rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(ValueOf(cluster, rank, metric::kGroupSize, {"rule"}), 0);
    EXPECT_EQ(ValueOf(cluster, rank, metric::kWeightBytes, {"rule", "bf16"}), 0);
    EXPECT_EQ(ValueOf(cluster, rank, metric::kKvConcurrency, {"rule"}), 0);
    EXPECT_EQ(ValueOf(cluster, rank, metric::kCollectiveAborts, {"coordinator"}), 1);
  }
  cluster.Load(2);
  ASSERT_TRUE(cluster.Ready(2));
  v1::UnloadRank unload;
  unload.set_group_epoch(2);
  for (auto& rank : cluster.ranks) rank->host->Unload(unload);
  ASSERT_TRUE(Eventually([&] { return cluster.Count(2, v1::RANK_UNLOADED) == 2; }));
  EXPECT_EQ(ValueOf(cluster, 0, metric::kCollectiveAborts, {"coordinator"}), 1);
}

TEST(GroupFigures, SayWhatTheQueueWaitsFor) {
  Cluster cluster(1);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  const auto waiting = [&](const char* reason) {
    return ValueOf(cluster, 0, metric::kEngineWaiting, {"rule", reason});
  };
  {
    std::vector<std::unique_ptr<Stream>> streams;
    for (int i = 0; i < 6; ++i) streams.push_back(std::make_unique<Stream>(*stub, 3000));
    EXPECT_TRUE(Eventually([&] { return waiting("capacity") == 2; }));
    EXPECT_EQ(waiting("kv"), 0);
    for (auto& stream : streams) stream->Cancel();
  }
  EXPECT_TRUE(Eventually([&] { return waiting("capacity") == 0; }));
  {
    // 67 blocks each, and there are 128.
    std::jthread first([&] { EXPECT_EQ(Ask(*stub, 1, 2130, 300).ids.size(), 300u); });
    EXPECT_TRUE(Eventually(
        [&] { return ValueOf(cluster, 0, metric::kEngineTokens, {"prefill"}) >= 2130; }));
    std::jthread second([&] { EXPECT_EQ(Ask(*stub, 2, 2130, 1).ids.size(), 1u); });
    EXPECT_TRUE(Eventually([&] { return waiting("kv") == 1; }));
    EXPECT_EQ(waiting("capacity"), 0);
  }
  EXPECT_TRUE(Eventually([&] { return waiting("kv") == 0; }));
}

TEST(GroupFigures, CountStepsThatEndInANaN) {
  Cluster cluster(1);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  ASSERT_TRUE(Generate(*stub, 1, 3).status.ok());
  EXPECT_EQ(ValueOf(cluster, 0, metric::kEngineNonFinite), 0);
  cluster.ranks[0]->certainty = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(ReasonOf(Generate(*stub, 1, 3).status), Reason::kNonFinite);
  EXPECT_TRUE(Eventually([&] { return ValueOf(cluster, 0, metric::kEngineNonFinite) == 1; }));
  EXPECT_EQ(ValueOf(cluster, 0, metric::kCollectiveAborts, {"step"}), 1);
}

TEST(GroupFigures, CountWritesThatCarrySeveralTokens) {
  Cluster cluster(1);
  cluster.ranks[0]->step_time = milliseconds(0);  // faster than writes
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  v1::EngineRequest request;
  request.add_prompt(1);
  request.set_max_tokens(3000);
  grpc::ClientContext context;
  auto reader = stub->Generate(&context, request);
  v1::EngineEvent event;
  int tokens = 0, coalesced = 0;
  while (reader->Read(&event)) {
    tokens += event.tokens_size();
    coalesced += event.tokens_size() > 1 ? 1 : 0;
  }
  ASSERT_TRUE(FromGrpc(reader->Finish()).ok());
  EXPECT_EQ(tokens, 3000);
  EXPECT_GT(coalesced, 0);
  EXPECT_TRUE(
      Eventually([&] { return ValueOf(cluster, 0, metric::kCoalescedWrites) == coalesced; }));
}

}  // namespace
}  // namespace octavo
