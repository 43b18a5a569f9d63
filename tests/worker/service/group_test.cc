// Serving groups of real ranks: generating, breaking, scoring, comparing.

#include <cmath>
#include <fstream>

#include "core/base/checksum.h"
#include "tests/worker/service/group_fixture.h"

namespace octavo {
namespace {

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
      EXPECT_TRUE(
          Eventually([&] { return rank->metrics.ValueOf(metric::kEngineRunning, {"rule"}) == 0; }));
      EXPECT_EQ(rank->metrics.ValueOf(metric::kGroupEpoch, {"rule"}), 1);
      EXPECT_EQ(rank->metrics.ValueOf(metric::kEngineSteps, {"decode"}), 3);
    }
  }
}

TEST(Group, AStuckRankFailsTheRequestOnAbortAndTheGroupFormsAgain) {
  Cluster cluster(2);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  Stream stream(*stub, 3000);
  ASSERT_TRUE(stream.Begins());
  cluster.ranks[1]->stuck = true;
  std::this_thread::sleep_for(milliseconds(50));
  const auto start = Steady::now();
  cluster.Abort(1);
  const Answer& answer = stream.Wait();
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
  Stream stream(*stub, 3000);
  ASSERT_TRUE(stream.Begins());
  const auto start = Steady::now();
  cluster.ranks[1]->host->Detached();
  const Answer& answer = stream.Wait();
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
  Stream stream(*stub, 3000);
  ASSERT_TRUE(stream.Begins());
  stream.Cancel();
  stream.Wait();
  EXPECT_EQ(Generate(*stub, 7, 1).ids, (std::vector<int32_t>{8}));
  const Metrics& metrics = cluster.ranks[0]->metrics;
  EXPECT_LT(metrics.ValueOf(metric::kEngineSteps, {"decode"}), 2000);
  // A cancelled call ends for its caller before its handler has seen it.
  EXPECT_TRUE(Eventually(
      [&] { return metrics.ValueOf(metric::kEngineRequests, {"CANCELLED"}) == 1; }));
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

TEST(Group, OneWorkerServesSeveralGroupsAndDrainsOneOfThem) {
  Cluster cluster(2);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  cluster.Load(2);
  ASSERT_TRUE(cluster.Ready(2));
  auto stub = cluster.Leader();
  EXPECT_EQ(ReasonOf(Generate(*stub, 1, 1).status), Reason::kNotReady);  // which?
  EXPECT_EQ(ReasonOf(Generate(*stub, 1, 1, nullptr, nullptr, "", 3).status), Reason::kNotReady);
  Stream first(*stub, 700, "", 1);
  Stream second(*stub, 700, "", 2);
  ASSERT_TRUE(first.Begins());
  ASSERT_TRUE(second.Begins());
  cluster.Drain(1);
  const Answer refused = Generate(*stub, 1, 1, nullptr, nullptr, "", 1);
  EXPECT_EQ(ReasonOf(refused.status), Reason::kNotReady);
  EXPECT_EQ(Generate(*stub, 7, 1, nullptr, nullptr, "", 2).ids, (std::vector<int32_t>{8}));
  EXPECT_EQ(cluster.Count(1, v1::RANK_DRAINED), 0);
  EXPECT_EQ(first.Wait().ids.size(), 700u);
  EXPECT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_DRAINED) == 1; }));
  // The end of one is nothing to the other.
  cluster.Abort(1);
  EXPECT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_UNLOADED) == 2; }));
  EXPECT_EQ(second.Wait().ids.size(), 700u);
  EXPECT_TRUE(second.Wait().status.ok());
  EXPECT_EQ(Generate(*stub, 7, 1).ids, (std::vector<int32_t>{8}));
}

}  // namespace
}  // namespace octavo
