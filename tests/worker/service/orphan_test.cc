// Ranks whose coordinator is gone, and what a worker remembers of what it told.

#include "tests/worker/service/group_fixture.h"

namespace octavo {
namespace {

void Orphan(Cluster& cluster) {
  for (auto& rank : cluster.ranks) rank->host->Orphaned();
}

TEST(Orphan, AGroupGoesOnAndSaysSoToTheNextCoordinator) {
  Cluster cluster(2);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  Stream stream(*stub, 500);
  ASSERT_TRUE(stream.Begins());
  Orphan(cluster);
  const int at = stream.seen();
  ASSERT_TRUE(Eventually([&] { return stream.seen() > at + 50; }));
  for (auto& rank : cluster.ranks) rank->host->Attached();
  EXPECT_EQ(cluster.Count(1, v1::RANK_READY), 4);  // each of them twice
  std::this_thread::sleep_for(milliseconds(800));  // longer than the grace
  const Answer& answer = stream.Wait();
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.ids.size(), 500u);
  EXPECT_EQ(cluster.Count(1, v1::RANK_UNLOADED), 0);
}

TEST(Orphan, AGroupEndsWithTheGrace) {
  Cluster cluster(2);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  Stream stream(*stub, 4000);
  ASSERT_TRUE(stream.Begins());
  const auto start = Steady::now();
  Orphan(cluster);
  const Answer& answer = stream.Wait();
  EXPECT_GE(Steady::now() - start, milliseconds(390));
  EXPECT_LT(Steady::now() - start, milliseconds(3000));
  EXPECT_EQ(ReasonOf(answer.status), Reason::kGroupLost);
  EXPECT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_UNLOADED) == 2; }));
  // The next coordinator's groups form as ever.
  for (auto& rank : cluster.ranks) rank->host->Attached();
  cluster.Load(2);
  ASSERT_TRUE(cluster.Ready(2));
}

TEST(Orphan, AGroupThatBrokeMeanwhileIsSaidToHave) {
  Cluster cluster(2);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  Stream stream(*stub, 3000);
  ASSERT_TRUE(stream.Begins());
  Orphan(cluster);
  cluster.ranks[1]->host->Detached();
  const Answer& answer = stream.Wait();
  EXPECT_EQ(ReasonOf(answer.status), Reason::kGroupLost);
  ASSERT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_FAILED) == 1; }));
  cluster.ranks[0]->host->Attached();
  EXPECT_EQ(cluster.Count(1, v1::RANK_READY), 2);
  EXPECT_EQ(cluster.Count(1, v1::RANK_FAILED), 2);
  EXPECT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_UNLOADED) == 2; }));
}

TEST(Orphan, AGroupThatStillFormsNeedsItsCoordinator) {
  Cluster cluster(2);
  v1::AbortGroup abort;
  abort.set_group_epoch(1);
  cluster.ranks[0]->host->AbortGroup(abort);
  cluster.Load(1);  // rank 0 refuses; rank 1 waits for it
  ASSERT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_FAILED) == 1; }));
  cluster.ranks[1]->host->Orphaned();
  EXPECT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_FAILED) == 2; }));
}

absl::StatusOr<v1::LoggedRequest> Remembered(v1::Engine::Stub& stub, const std::string& id) {
  grpc::ClientContext context;
  v1::GetTokenLogRequest request;
  request.set_request_id(id);
  v1::LoggedRequest logged;
  if (absl::Status status = FromGrpc(stub.GetTokenLog(&context, request, &logged)); !status.ok()) {
    return status;
  }
  return logged;
}

TEST(Orphan, AWorkerRemembersWhatItToldBeyondTheEndOfItsGroup) {
  Cluster cluster(1);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  EXPECT_EQ(ReasonOf(Remembered(*stub, "r").status()), Reason::kNotFound);
  EXPECT_TRUE(Generate(*stub, 41, 3, nullptr, nullptr, "r").status.ok());
  // One that is cut short, and the group with it.
  Stream stream(*stub, 3000, "cut");
  ASSERT_TRUE(stream.Begins());
  const int told = stream.seen();
  stream.Cancel();
  stream.Wait();
  cluster.Abort(1);
  ASSERT_TRUE(Eventually([&] { return cluster.Count(1, v1::RANK_UNLOADED) == 1; }));
  const auto whole = Remembered(*stub, "r");
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->note(), "r");
  v1::EngineEvent event;
  ASSERT_TRUE(event.ParseFromString(whole->answers(0).told()));
  ASSERT_EQ(event.tokens_size(), 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(event.tokens(i).id(), 42 + i);
  EXPECT_EQ(event.finish(), v1::FINISH_LENGTH);
  ASSERT_TRUE(event.ParseFromString(Remembered(*stub, "cut")->answers(0).told()));
  EXPECT_GE(event.tokens_size(), told);
  EXPECT_EQ(event.finish(), v1::FINISH_UNSPECIFIED);
}

TEST(Orphan, TheLaterStreamOfARequestIsTheOneThatGoesOn) {
  Cluster cluster(1);
  cluster.Load(1);
  ASSERT_TRUE(cluster.Ready(1));
  auto stub = cluster.Leader();
  Stream stream(*stub, 3000, "r");
  ASSERT_TRUE(stream.Begins());
  EXPECT_EQ(Generate(*stub, 1, 30, nullptr, nullptr, "r").ids.size(), 30u);
  const Answer& first = stream.Wait();
  EXPECT_EQ(ReasonOf(first.status), Reason::kBusy) << first.status;
}

}  // namespace
}  // namespace octavo
