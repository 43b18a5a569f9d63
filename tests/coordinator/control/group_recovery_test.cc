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
  Restart();
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
