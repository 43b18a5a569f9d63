// Serving groups through Control with fake workers: forming, rendezvous, breaking, forming again.

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "coordinator/control/control.h"
#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/checkpoint/synth.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_worker.h"
#include "tests/fakes/memory_state_store.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using ::testing::ElementsAre;

class GroupsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new fs::path(fs::temp_directory_path() / ("octavo-groups-" + RandomHex(8)));
    SynthSpec spec;
    spec.model.set_hidden_size(128);
    spec.model.set_intermediate_size(256);
    spec.model.set_layer_count(2);
    spec.model.set_head_count(4);
    spec.model.set_kv_head_count(2);
    spec.model.set_vocab_size(320);
    const absl::Status written = WriteSynthetic(spec, 7, dir_->string());
    ASSERT_TRUE(written.ok()) << written;
  }
  static void TearDownTestSuite() {
    fs::remove_all(*dir_);
    delete dir_;
  }

  GroupsTest() {
    ControlOptions options;
    options.clock = &clock_;
    options.own_thread = false;
    auto started = Control::Start(options, &store_, &models_, &metrics_);
    EXPECT_TRUE(started.ok()) << started.status();
    control_ = *std::move(started);
  }

  v1::LoadModelRequest Request(uint32_t ranks) const {
    v1::LoadModelRequest request;
    request.set_model_dir(dir_->string());
    request.set_model_id("m");
    request.set_tensor_parallel(ranks);
    return request;
  }
  bool RoundsUntil(const std::function<bool()>& done) {
    for (int i = 0; i < 20'000; ++i) {
      control_->Step();
      if (done()) return true;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return false;
  }
  // The last LoadRank that a worker got for an epoch above `epoch`; null message if none.
  static v1::LoadRank LoadOf(const FakeWorker& worker, uint64_t epoch = 0) {
    for (auto i = worker.directives.rbegin(); i != worker.directives.rend(); ++i) {
      if (i->has_load() && i->load().group_epoch() > epoch) return i->load();
    }
    return {};
  }
  static bool Aborted(const FakeWorker& worker, uint64_t epoch) {
    return std::any_of(worker.directives.begin(), worker.directives.end(), [&](const auto& d) {
      return d.has_abort() && d.abort().group_epoch() == epoch;
    });
  }
  static void Say(FakeWorker& worker, v1::RankState state, const std::string& reason = "") {
    const v1::LoadRank load = LoadOf(worker);
    v1::Report report;
    report.mutable_rank()->set_group_epoch(load.group_epoch());
    report.mutable_rank()->set_rank(load.rank());
    report.mutable_rank()->set_state(state);
    if (!reason.empty()) report.mutable_rank()->mutable_failure()->set_reason(reason);
    worker.Report(report);
  }
  v1::ModelInfo Model() { return *control_->GetModel("m"); }

  // Brings a group of two up over workers "a" and "b".
  uint64_t FormPair(FakeWorker& a, FakeWorker& b, uint64_t after = 0) {
    EXPECT_TRUE(RoundsUntil([&] { return LoadOf(b, after).group_epoch() != 0; }));
    Say(a, v1::RANK_READY);
    Say(b, v1::RANK_READY);
    control_->Step();
    EXPECT_EQ(Model().state(), "ready");
    return Model().group_epoch();
  }

  static fs::path* dir_;
  ManualClock clock_;
  MemoryStateStore store_;
  ModelTable models_;
  Metrics metrics_{MetricHome::kCoordinator, "test"};
  std::unique_ptr<Control> control_;
};
fs::path* GroupsTest::dir_ = nullptr;

TEST_F(GroupsTest, FormsOverTheLowestIdsAndTellsTheRouter) {
  auto c = FakeWorker::Join(*control_, "3", 0);
  auto b = FakeWorker::Join(*control_, "2", 0);
  auto a = FakeWorker::Join(*control_, "1", 0);
  ASSERT_TRUE(control_->LoadModel(Request(2)).ok());
  EXPECT_EQ(ReasonOf(models_.Route("m").status()), Reason::kNotReady);
  const uint64_t epoch = FormPair(*a, *b);
  EXPECT_EQ(LoadOf(*c).group_epoch(), 0u);
  const v1::LoadRank load = LoadOf(*b);
  EXPECT_EQ(load.rank(), 1u);
  EXPECT_EQ(load.plan().rank_count(), 2u);
  EXPECT_EQ(load.plan().ranks_size(), 2);
  EXPECT_THAT(load.engine_addresses(), ElementsAre("127.0.0.1:11", "127.0.0.1:12"));
  const auto routed = models_.Route("m");
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
    EXPECT_EQ(worker.model_id(), worker.hello().worker_id() == "3" ? "" : "m");
  }
  // The same request again is the same model; another one is refused.
  EXPECT_EQ(control_->LoadModel(Request(2))->group_epoch(), epoch);
  EXPECT_EQ(ReasonOf(control_->LoadModel(Request(1)).status()), Reason::kBusy);
  ASSERT_TRUE(control_->UnloadModel("m").ok());
  EXPECT_TRUE(a->directives.back().has_unload());
  EXPECT_TRUE(b->directives.back().has_unload());
  EXPECT_EQ(ReasonOf(models_.Find("m").status()), Reason::kNotFound);
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
  control_->Leave(b->session);
  control_->Step();
  EXPECT_TRUE(Aborted(*a, epoch));
  EXPECT_EQ(Model().state(), "reforming");
  EXPECT_EQ(Model().failure().reason(), "GROUP_LOST");
  EXPECT_EQ(ReasonOf(models_.Route("m").status()), Reason::kNotReady);
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
  ASSERT_TRUE(RoundsUntil([&] { return control_->GetModel("missing")->state() == "failed"; }));
  EXPECT_EQ(control_->GetModel("missing")->failure().reason(), "INPUT_MISSING");
  v1::LoadModelRequest relative = Request(1);
  relative.set_model_dir("here");
  EXPECT_EQ(ReasonOf(control_->LoadModel(relative).status()), Reason::kBadRequest);
  v1::LoadModelRequest fp8 = Request(1);  // this checkpoint has no scales of keys and values
  fp8.set_model_id("fp8");
  fp8.set_cache_type(v1::CACHE_FP8);
  ASSERT_TRUE(control_->LoadModel(fp8).ok());
  ASSERT_TRUE(RoundsUntil([&] { return control_->GetModel("fp8")->state() == "failed"; }));
  EXPECT_EQ(control_->GetModel("fp8")->failure().reason(), "BAD_REQUEST");
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
