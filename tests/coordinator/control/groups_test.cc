// Serving groups through Control with fake workers: forming, rendezvous, breaking, forming again.

#include "gmock/gmock.h"
#include "tests/coordinator/control/groups_fixture.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;

TEST_F(GroupsTest, FormsOverTheLowestIdsAndTellsTheRouter) {
  auto c = FakeWorker::Join(*control_, "3", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  auto a = FakeWorker::Join(*control_, "1", 0);
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  EXPECT_EQ(ReasonOf(models_->Route("m").status()), Reason::kNotReady);
  const uint64_t epoch = FormPair(*a, *b);
  EXPECT_EQ(LoadOf(*c).group_epoch(), 0u);
  const v1::LoadRank load = LoadOf(*b);
  EXPECT_EQ(load.rank(), 1u);
  EXPECT_EQ(load.plan().rank_count(), 2u);
  EXPECT_EQ(load.plan().ranks_size(), 2);
  EXPECT_THAT(load.engine_addresses(), ElementsAre("127.0.0.1:11", "127.0.0.1:12"));
  const auto routed = models_->Route("m");
  ASSERT_TRUE(routed.ok()) << routed.status();
  EXPECT_EQ(routed->leader_address(), "127.0.0.1:11");
  EXPECT_EQ(routed->group_epoch(), epoch);
  EXPECT_EQ(routed->format(), "bf16");
  EXPECT_EQ(routed->cache_type(), v1::CACHE_BF16);
  EXPECT_GT(routed->max_model_len(), 0);
  EXPECT_EQ(routed->max_batched_tokens(), 256u);
  EXPECT_EQ(routed->max_sequences(), 64u);
  EXPECT_GE(routed->kv_cache_tokens(), routed->max_model_len());
  const v1::ListWorkersResponse listed = control_->ListWorkers();
  for (const v1::WorkerInfo& worker : listed.workers()) {
    EXPECT_EQ(worker.ranks_size(), worker.hello().worker_id() == "3" ? 0 : 1);
    for (const v1::HeldRank& rank : worker.ranks()) EXPECT_EQ(rank.model_id(), "m");
  }
  // The same request again is the same model; another one is refused.
  EXPECT_EQ(control_->LoadModel(Request(2))->group_epoch(), epoch);
  EXPECT_EQ(ReasonOf(control_->LoadModel(Request(1)).status()), Reason::kBusy);
  ASSERT_TRUE(control_->UnloadModel("m").ok());
  EXPECT_TRUE(a->directives.back().has_unload());
  EXPECT_TRUE(b->directives.back().has_unload());
  EXPECT_EQ(ReasonOf(models_->Find("m").status()), Reason::kNotFound);
  EXPECT_EQ(ReasonOf(control_->UnloadModel("m")), Reason::kNotFound);
}

TEST_F(GroupsTest, RelaysNotesOfTheCurrentEpochOnly) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  ASSERT_TRUE(RoundsUntil([&] { return LoadOf(*b).group_epoch() != 0; }));
  const uint64_t epoch = LoadOf(*b).group_epoch();
  v1::Report get;
  get.mutable_get()->set_group_epoch(epoch);
  get.mutable_get()->set_key("address/0");
  get.mutable_get()->set_call(5);
  b->Report(get);
  v1::Report put;
  put.mutable_put()->set_group_epoch(epoch - 1);
  put.mutable_put()->set_key("address/0");
  put.mutable_put()->set_value("old");
  a->Report(put);
  control_->Step();
  EXPECT_FALSE(b->directives.back().has_value());
  put.mutable_put()->set_group_epoch(epoch);
  put.mutable_put()->set_value("new");
  a->Report(put);
  control_->Step();
  ASSERT_TRUE(b->directives.back().has_value());
  EXPECT_EQ(b->directives.back().value().value(), "new");
  EXPECT_EQ(b->directives.back().value().call(), 5u);
}

TEST_F(GroupsTest, ADeadRankAbortsTheOthersAndTheGroupFormsAgain) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  const uint64_t epoch = FormPair(*a, *b);
  EXPECT_EQ(metrics_.ValueOf(metric::kModelInfo, {"m", "llama", "bf16"}), 1);
  clock_.Advance(std::chrono::milliseconds(200));
  a->Beat();
  control_->Step();
  EXPECT_NEAR(metrics_.ValueOf(metric::kHeartbeatAge), 0.2, 1e-9);
  control_->Leave(b->session);
  control_->Step();
  EXPECT_EQ(metrics_.ValueOf(metric::kHeartbeatAge), 0);
  EXPECT_TRUE(Aborted(*a, epoch));
  EXPECT_EQ(metrics_.ValueOf(metric::kModelInfo, {"m", "llama", "bf16"}), 0);
  EXPECT_EQ(Model().state(), "reforming");
  EXPECT_EQ(Model().failure().reason(), "GROUP_LOST");
  EXPECT_EQ(ReasonOf(models_->Route("m").status()), Reason::kNotReady);
  EXPECT_EQ(metrics_.ValueOf(metric::kGroupReforms, {"worker-lost"}), 1);
  clock_.Advance(std::chrono::minutes(10));  // waits for workers as long as it takes
  a->Beat();
  control_->Step();
  EXPECT_EQ(Model().state(), "reforming");
  auto c = FakeWorker::Join(*control_, "3", 0);
  const uint64_t next = FormPair(*a, *c, epoch);
  EXPECT_GT(next, epoch);
  // A late word of the dead epoch changes nothing.
  v1::Report late;
  late.mutable_rank()->set_group_epoch(epoch);
  late.mutable_rank()->set_rank(0);
  late.mutable_rank()->set_state(v1::RANK_FAILED);
  a->Report(late);
  control_->Step();
  EXPECT_EQ(Model().state(), "ready");
}

TEST_F(GroupsTest, AFailedRankIsTriedAgainWithABound) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  uint64_t epoch = 0;
  for (int i = 0; i < GroupDesk::kTriesMax; ++i) {
    ASSERT_TRUE(RoundsUntil([&] {
      clock_.Advance(milliseconds(10));
      a->Beat();
      b->Beat();
      return LoadOf(*b, epoch).group_epoch() != 0;
    }));
    epoch = LoadOf(*b).group_epoch();
    Say(*b, v1::RANK_FAILED, "GROUP_LOST");
    control_->Step();
    EXPECT_TRUE(Aborted(*a, epoch));
  }
  EXPECT_EQ(Model().state(), "failed");
  EXPECT_EQ(Model().failure().reason(), "GROUP_LOST");
}

TEST_F(GroupsTest, HopelessFailuresFailAtOnce) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  ASSERT_TRUE(RoundsUntil([&] { return LoadOf(*b).group_epoch() != 0; }));
  Say(*a, v1::RANK_FAILED, "OUT_OF_MEMORY");
  control_->Step();
  EXPECT_EQ(Model().state(), "failed");
  EXPECT_EQ(Model().failure().reason(), "OUT_OF_MEMORY");
  v1::LoadModelRequest missing = Request(1);
  missing.set_model_id("missing");
  missing.set_model_dir("/nowhere/at/all");
  ASSERT_TRUE(control_->LoadModel(missing).ok());
  ASSERT_TRUE(RoundsUntil([&] { return Model("missing").state() == "failed"; }));
  EXPECT_EQ(Model("missing").failure().reason(), "INPUT_MISSING");
  v1::LoadModelRequest relative = Request(1);
  relative.set_model_dir("here");
  EXPECT_EQ(ReasonOf(control_->LoadModel(relative).status()), Reason::kBadRequest);
  v1::LoadModelRequest fp8 = Request(1);  // this checkpoint has no scales of keys and values
  fp8.set_model_id("fp8");
  fp8.set_cache_type(v1::CACHE_FP8);
  ASSERT_TRUE(control_->LoadModel(fp8).ok());
  ASSERT_TRUE(RoundsUntil([&] { return Model("fp8").state() == "failed"; }));
  EXPECT_EQ(Model("fp8").failure().reason(), "BAD_REQUEST");
  fp8.set_cache_type(static_cast<v1::CacheType>(7));
  EXPECT_EQ(ReasonOf(control_->LoadModel(fp8).status()), Reason::kBadRequest);
}

TEST_F(GroupsTest, TooFewWorkersIsNotReadyAfterAWhile) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  control_->Step();
  EXPECT_EQ(Model().state(), "loading");
  clock_.Advance(GroupDesk::kWorkersWait + milliseconds(1));
  a->Beat();
  control_->Step();
  EXPECT_EQ(Model().state(), "failed");
  EXPECT_EQ(Model().failure().reason(), "NOT_READY");
}

}  // namespace
}  // namespace octavo
