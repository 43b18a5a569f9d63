// What a coordinator that starts anew makes of the models that its journal holds.

#include "tests/coordinator/control/groups_fixture.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

class GroupRecoveryTest : public GroupsTest {};

TEST_F(GroupRecoveryTest, ALoadedModelIsLoadedAgainUnderALaterEpoch) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  const uint64_t epoch = FormPair(*a, *b);
  control_->Leave(b->session);
  control_->Step();
  EXPECT_EQ(metrics_.ValueOf(metric::kRecoveries), 0);
  Restart();
  EXPECT_EQ(metrics_.ValueOf(metric::kRecoveries), 1);
  EXPECT_EQ(Model().state(), "reforming");
  EXPECT_EQ(ReasonOf(models_->Route("m").status()), Reason::kNotReady);
  clock_.Advance(std::chrono::hours(1));  // nobody waits for it, so that it waits for ever
  control_->Step();
  EXPECT_EQ(Model().state(), "reforming");
  auto c = FakeWorker::Join(*control_, "3", 0);
  auto d = FakeWorker::Join(*control_, "4", 0);
  EXPECT_GT(FormPair(*c, *d), epoch);
  // It is the model that was asked for then.
  EXPECT_EQ(control_->LoadModel(Request(2))->state(), "ready");
  EXPECT_EQ(ReasonOf(control_->LoadModel(Request(1)).status()), Reason::kBusy);
}

TEST_F(GroupRecoveryTest, AGroupThatIsWholeIsTakenOverAsItIs) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  const uint64_t epoch = FormPair(*a, *b);
  const v1::ModelInfo before = Model();
  Restart();
  EXPECT_EQ(Model().state(), "recovering");
  // Its ranks serve all the while: gateways go on and find the leader.
  EXPECT_TRUE(models_->StillServing(before));
  EXPECT_EQ(models_->Route("m")->leader_address(), before.leader_address());
  EXPECT_EQ(models_->Workers(), std::vector<std::string>{before.leader_address()});
  auto other = FakeWorker::Join(*control_, "0", 0);  // is not taken in their place
  auto b2 = FakeWorker::Join(*control_, "2", 0);
  SayOf(*b2, epoch, 1, v1::RANK_READY);
  clock_.Advance(GroupDesk::kRecoverWait - milliseconds(1));
  b2->Beat();
  other->Beat();
  control_->Step();
  EXPECT_EQ(Model().state(), "recovering");
  auto a2 = FakeWorker::Join(*control_, "1", 0);
  SayOf(*a2, epoch, 0, v1::RANK_READY);
  control_->Step();
  EXPECT_EQ(Model().state(), "ready");
  EXPECT_EQ(Model().group_epoch(), epoch);
  for (const auto& worker : {other, a2, b2}) EXPECT_EQ(LoadOf(*worker).group_epoch(), 0u);
  EXPECT_EQ(models_->Workers().size(), 3u);
  // From now on it is a group like any: a rank that dies ends it.
  control_->Leave(a2->session);
  EXPECT_GT(FormPair(*other, *b2, epoch), epoch);
  EXPECT_TRUE(Aborted(*b2, epoch));
}

TEST_F(GroupRecoveryTest, AGroupThatIsNotWholeIsFormedAnewAndItsRestEnded) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  const uint64_t epoch = FormPair(*a, *b);
  Restart();
  auto a2 = FakeWorker::Join(*control_, "1", 0);
  SayOf(*a2, epoch, 0, v1::RANK_READY);
  control_->Step();
  clock_.Advance(GroupDesk::kRecoverWait + milliseconds(1));
  a2->Beat();
  control_->Step();
  EXPECT_EQ(Model().state(), "reforming");
  EXPECT_TRUE(Aborted(*a2, epoch));
  EXPECT_EQ(ReasonOf(models_->Route("m").status()), Reason::kNotReady);
  auto c = FakeWorker::Join(*control_, "3", 0);
  const uint64_t next = FormPair(*a2, *c, epoch);
  EXPECT_GT(next, epoch);
  // The rank that came too late serves in a group that is no more.
  auto b2 = FakeWorker::Join(*control_, "2", 0);
  SayOf(*b2, epoch, 1, v1::RANK_READY);
  control_->Step();
  EXPECT_TRUE(Aborted(*b2, epoch));
  EXPECT_EQ(Model().group_epoch(), next);
}

TEST_F(GroupRecoveryTest, ARankThatSaysItsGroupBrokeIsBelievedAtOnce) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  const uint64_t epoch = FormPair(*a, *b);
  Restart();
  auto b2 = FakeWorker::Join(*control_, "2", 0);
  auto c = FakeWorker::Join(*control_, "3", 0);
  SayOf(*b2, epoch, 1, v1::RANK_FAILED, "GROUP_LOST");
  control_->Step();
  EXPECT_EQ(Model().state(), "reforming");
  clock_.Advance(std::chrono::seconds(1));
  b2->Beat();
  c->Beat();
  EXPECT_GT(FormPair(*b2, *c, epoch), epoch);
}

TEST_F(GroupRecoveryTest, WhatWasUnloadedStaysUnloaded) {
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  ASSERT_TRUE(control_->UnloadModel("m").ok());
  Restart();
  EXPECT_TRUE(control_->ListModels().empty());
}

TEST_F(GroupRecoveryTest, WhatFailedBeforeItServedIsForgotten) {
  v1::LoadModelRequest missing = Request(1);
  missing.set_model_dir("/nowhere/at/all");
  auto a = FakeWorker::Join(*control_, "1", 0);
  ASSERT_TRUE(control_->LoadModel(missing).ok());
  ASSERT_TRUE(RoundsUntil([&] { return Model().state() == "failed"; }));
  Restart();
  EXPECT_TRUE(control_->ListModels().empty());
}

TEST_F(GroupRecoveryTest, WhatTheJournalDoesNotTakeIsNotLoaded) {
  store_.Break();
  EXPECT_EQ(ReasonOf(control_->LoadModel(Request(2)).status()), Reason::kDiskFull);
  EXPECT_TRUE(control_->ListModels().empty());
  EXPECT_EQ(ReasonOf(models_->Find("m").status()), Reason::kNotFound);
}

}  // namespace
}  // namespace octavo
