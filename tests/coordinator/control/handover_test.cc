// One group takes another's place: new versions, several models on one worker, drained workers.

#include "gmock/gmock.h"
#include "tests/coordinator/control/groups_fixture.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

class HandoverTest : public GroupsTest {
 protected:
  // The same checkpoint in another folder: another version of "m".
  void SetUp() override {
    next_dir_ = dir_->string() + "-next";
    std::filesystem::remove_all(next_dir_);
    std::filesystem::copy(*dir_, next_dir_);
  }
  void TearDown() override { std::filesystem::remove_all(next_dir_); }

  v1::LoadModelRequest Next(uint32_t ranks) const {
    v1::LoadModelRequest request = Request(ranks);
    request.set_model_dir(next_dir_);
    request.set_replace(true);
    return request;
  }
  // A group of one that serves "m" on `worker`.
  uint64_t FormOne(FakeWorker& worker, uint64_t after = 0) {
    EXPECT_TRUE(RoundsUntil([&] { return LoadOf(worker, after).group_epoch() != 0; }));
    Say(worker, v1::RANK_READY);
    control_->Step();
    return LoadOf(worker).group_epoch();
  }
  static int Told(const FakeWorker& worker, uint64_t epoch, v1::Directive::KindCase kind) {
    return static_cast<int>(std::ranges::count_if(worker.directives, [&](const auto& directive) {
      return directive.kind_case() == kind &&
             (kind == v1::Directive::kDrain ? directive.drain().group_epoch()
                                            : directive.unload().group_epoch()) == epoch;
    }));
  }
  v1::WorkerInfo Worker(const std::string& id) {
    const v1::ListWorkersResponse all = control_->ListWorkers();
    for (const v1::WorkerInfo& worker : all.workers()) {
      if (worker.hello().worker_id() == id) return worker;
    }
    return {};
  }
  std::vector<std::string> States() {
    std::vector<std::string> states;
    for (const v1::ModelInfo& model : control_->ListModels()) {
      states.push_back(model.state() + (model.successor() ? " successor" : ""));
    }
    return states;
  }

  std::string next_dir_;
};

TEST_F(HandoverTest, ANewVersionTakesThePlaceWhenItIsReady) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  ASSERT_TRUE(control_->LoadModel(Request(1)).ok());
  const uint64_t old = FormOne(*a);
  const v1::ModelInfo before = *models_->Route("m");
  v1::LoadModelRequest refused = Next(1);
  refused.set_replace(false);
  EXPECT_EQ(ReasonOf(control_->LoadModel(refused).status()), Reason::kBusy);
  const auto loading = control_->LoadModel(Next(1));
  ASSERT_TRUE(loading.ok()) << loading.status();
  EXPECT_TRUE(loading->successor());
  EXPECT_EQ(control_->LoadModel(Next(1))->load(), loading->load());
  EXPECT_EQ(ReasonOf(control_->LoadModel(Request(1)).status()), Reason::kBusy);
  ASSERT_TRUE(RoundsUntil([&] { return LoadOf(*a, old).group_epoch() != 0; }));
  EXPECT_EQ(models_->Route("m")->group_epoch(), old);
  EXPECT_THAT(States(), ElementsAre("ready", "loading successor"));
  const uint64_t young = FormOne(*a, old);
  EXPECT_EQ(models_->Route("m")->group_epoch(), young);
  EXPECT_EQ(models_->Route("m")->model_dir(), next_dir_);
  EXPECT_TRUE(models_->StillServing(before));
  EXPECT_THAT(States(), ElementsAre("ready", "draining"));
  EXPECT_EQ(Told(*a, old, v1::Directive::kDrain), 1);
  EXPECT_EQ(Told(*a, old, v1::Directive::kUnload), 0);
  EXPECT_EQ(control_->GetModel(loading->load())->state(), "ready");
  SayOf(*a, old, 0, v1::RANK_DRAINED);
  control_->Step();
  EXPECT_EQ(Told(*a, old, v1::Directive::kUnload), 1);
  EXPECT_FALSE(models_->StillServing(before));
  EXPECT_THAT(States(), ElementsAre("ready"));
  Restart();
  EXPECT_THAT(States(), ElementsAre("recovering"));
  EXPECT_EQ(Model().model_dir(), next_dir_);
}

TEST_F(HandoverTest, AVersionThatFailsLeavesTheOldOneServing) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  ASSERT_TRUE(control_->LoadModel(Request(1)).ok());
  const uint64_t old = FormOne(*a);
  const auto loading = control_->LoadModel(Next(1));
  ASSERT_TRUE(RoundsUntil([&] { return LoadOf(*a, old).group_epoch() != 0; }));
  Say(*a, v1::RANK_FAILED, "OUT_OF_MEMORY");
  control_->Step();
  EXPECT_EQ(control_->GetModel(loading->load())->failure().reason(), "OUT_OF_MEMORY");
  EXPECT_THAT(States(), ElementsAre("ready", "failed successor"));
  EXPECT_EQ(models_->Route("m")->group_epoch(), old);
  const auto again = control_->LoadModel(Next(1));
  EXPECT_GT(again->load(), loading->load());
  EXPECT_THAT(States(), ElementsAre("ready", "loading successor"));
  ASSERT_TRUE(control_->UnloadModel("m").ok());
  EXPECT_THAT(States(), SizeIs(0));
  Restart();
  EXPECT_THAT(States(), SizeIs(0));
}

TEST_F(HandoverTest, WhatLoadsAndWhatDrainsOutlivesTheCoordinator) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  ASSERT_TRUE(control_->LoadModel(Request(1)).ok());
  const uint64_t first = FormOne(*a);
  ASSERT_TRUE(control_->LoadModel(Next(1)).ok());
  const uint64_t second = FormOne(*a, first);
  v1::LoadModelRequest third = Request(1);
  third.set_replace(true);
  ASSERT_TRUE(control_->LoadModel(third).ok());
  EXPECT_THAT(States(), ElementsAre("ready", "draining", "loading successor"));
  Restart();
  EXPECT_THAT(States(), ElementsAre("recovering", "loading successor", "draining"));
  auto back = FakeWorker::Join(*control_, "1", 0);
  SayOf(*back, first, 0, v1::RANK_READY);
  SayOf(*back, second, 0, v1::RANK_READY);
  control_->Step();
  EXPECT_EQ(Told(*back, first, v1::Directive::kDrain), 1);
  EXPECT_EQ(Model().group_epoch(), second);
  const uint64_t young = FormOne(*back, second);
  EXPECT_EQ(Model().group_epoch(), young);
  EXPECT_THAT(States(), ElementsAre("ready", "draining", "draining"));
}

TEST_F(HandoverTest, GroupsThatDrainEndWithTheirTimeOrTheirRanks) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  ASSERT_TRUE(control_->LoadModel(Request(1)).ok());
  const uint64_t first = FormOne(*a);
  ASSERT_TRUE(control_->LoadModel(Next(1)).ok());
  const uint64_t second = FormOne(*b);
  clock_.Advance(GroupDesk::kDrainMax + std::chrono::milliseconds(1));
  a->Beat();
  b->Beat();
  control_->Step();
  EXPECT_EQ(Told(*a, first, v1::Directive::kUnload), 1);
  EXPECT_THAT(States(), ElementsAre("ready"));
  v1::LoadModelRequest third = Request(1);
  third.set_replace(true);
  ASSERT_TRUE(control_->LoadModel(third).ok());
  FormOne(*a, first);
  EXPECT_THAT(States(), ElementsAre("ready", "draining"));
  control_->Leave(b->session);
  control_->Step();
  EXPECT_THAT(States(), ElementsAre("ready"));
  EXPECT_EQ(metrics_.ValueOf(metric::kModels, {"draining"}), 0);
  EXPECT_NE(Model().group_epoch(), second);
}

TEST_F(HandoverTest, ModelsShareTheMemoryOfAWorker) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  v1::LoadModelRequest bounded = Request(1);
  bounded.set_kv_cache_tokens(1000);
  ASSERT_TRUE(control_->LoadModel(bounded).ok());
  const uint64_t first = FormOne(*a);
  EXPECT_EQ(Model().kv_cache_tokens(), 1024);  // whole blocks
  const uint64_t held = Model().rank_bytes();
  EXPECT_GT(held, 0u);
  v1::LoadModelRequest other = Request(1);
  other.set_model_id("other");
  other.set_max_batched_tokens(8192);
  other.set_max_sequences(8192);  // a cache that takes what there is
  ASSERT_TRUE(control_->LoadModel(other).ok());
  FormOne(*a, first);
  EXPECT_EQ(Model("other").state(), "ready");
  const v1::WorkerInfo worker = Worker("1");
  EXPECT_THAT(worker.ranks(), SizeIs(2));
  const uint64_t both = worker.ranks(0).bytes() + worker.ranks(1).bytes();
  EXPECT_LE(both, (1u << 30) - (128u << 20));
  // What is left holds no third one, and the refusal says what the others hold.
  v1::LoadModelRequest third = Request(1);
  third.set_model_id("third");
  ASSERT_TRUE(control_->LoadModel(third).ok());
  ASSERT_TRUE(RoundsUntil([&] { return Model("third").state() == "failed"; }));
  EXPECT_EQ(Model("third").failure().reason(), "OUT_OF_MEMORY");
  EXPECT_NE(Model("third").failure().message().find(std::to_string(both)), std::string::npos)
      << Model("third").failure().message();
}

TEST_F(HandoverTest, AModelMovesOffAWorkerThatDrains) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  ASSERT_TRUE(control_->LoadModel(Request(1)).ok());
  const uint64_t old = FormOne(*a);
  EXPECT_EQ(ReasonOf(control_->DrainWorker("9", true).status()), Reason::kNotFound);
  EXPECT_EQ(control_->DrainWorker("1", true)->state(), "draining");
  const uint64_t young = FormOne(*b);
  EXPECT_EQ(models_->Route("m")->group_epoch(), young);
  EXPECT_THAT(Worker("1").ranks(), SizeIs(1));
  SayOf(*a, old, 0, v1::RANK_DRAINED);
  control_->Step();
  EXPECT_THAT(Worker("1").ranks(), SizeIs(0));
  // It stays out of use, through a new coordinator too.
  Restart();
  auto again = FakeWorker::Join(*control_, "1", 0);
  EXPECT_EQ(Worker("1").state(), "draining");
  EXPECT_EQ(control_->DrainWorker("1", false)->state(), "ready");
  Restart();
  auto third = FakeWorker::Join(*control_, "1", 0);
  EXPECT_EQ(Worker("1").state(), "ready");
}

TEST_F(HandoverTest, AModelThatNoOtherWorkersHoldWaitsForThem) {
  auto a = FakeWorker::Join(*control_, "1", 0);
  ASSERT_TRUE(control_->LoadModel(Request(1)).ok());
  const uint64_t old = FormOne(*a);
  const v1::ModelInfo before = *models_->Route("m");
  ASSERT_TRUE(control_->DrainWorker("1", true).ok());
  control_->Step();
  EXPECT_EQ(Model().state(), "reforming");
  EXPECT_EQ(ReasonOf(models_->Route("m").status()), Reason::kNotReady);
  EXPECT_TRUE(models_->StillServing(before));
  EXPECT_EQ(Told(*a, old, v1::Directive::kDrain), 1);
  SayOf(*a, old, 0, v1::RANK_DRAINED);
  control_->Step();
  EXPECT_THAT(States(), ElementsAre("reforming"));
  auto b = FakeWorker::Join(*control_, "2", 0);
  FormOne(*b);
  EXPECT_EQ(Model().state(), "ready");
}

}  // namespace
}  // namespace octavo
