#pragma once

// Control with fake workers and a small checkpoint, for tests of serving groups.

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "coordinator/control/control.h"
#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/checkpoint/synth.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_worker.h"
#include "tests/fakes/memory_state_store.h"

namespace octavo {

class GroupsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new std::filesystem::path(std::filesystem::temp_directory_path() /
                                     ("octavo-groups-" + RandomHex(8)));
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
    std::filesystem::remove_all(*dir_);
    delete dir_;
  }

  GroupsTest() { Restart(); }

  // Another coordinator over the same journal; its workers are yet to join.
  void Restart() {
    control_.reset();
    models_ = std::make_unique<ModelTable>();
    ControlOptions options;
    options.clock = &clock_;
    options.own_thread = false;
    auto started = Control::Start(options, &store_, models_.get(), &metrics_);
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
  bool RoundsUntil(const std::function<bool()>& done) { return StepUntil(*control_, done); }
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
    SayOf(worker, load.group_epoch(), load.rank(), state, reason);
  }
  static void SayOf(FakeWorker& worker, uint64_t epoch, uint32_t rank, v1::RankState state,
                    const std::string& reason = "") {
    v1::Report report;
    report.mutable_rank()->set_group_epoch(epoch);
    report.mutable_rank()->set_rank(rank);
    report.mutable_rank()->set_state(state);
    if (!reason.empty()) report.mutable_rank()->mutable_failure()->set_reason(reason);
    worker.Report(report);
  }
  // What serves under the name, or is to.
  v1::ModelInfo Model(const std::string& id = "m") {
    for (const v1::ModelInfo& model : control_->ListModels()) {
      if (model.model_id() == id && !model.successor() && model.state() != "draining") {
        return model;
      }
    }
    return {};
  }

  // Brings a group of two up over workers "a" and "b".
  uint64_t FormPair(FakeWorker& a, FakeWorker& b, uint64_t after = 0) {
    EXPECT_TRUE(RoundsUntil([&] { return LoadOf(b, after).group_epoch() != 0; }));
    Say(a, v1::RANK_READY);
    Say(b, v1::RANK_READY);
    control_->Step();
    EXPECT_EQ(Model().state(), "ready");
    return Model().group_epoch();
  }

  static inline std::filesystem::path* dir_ = nullptr;
  ManualClock clock_;
  MemoryStateStore store_;
  std::unique_ptr<ModelTable> models_;
  Metrics metrics_{MetricHome::kCoordinator, "test"};
  std::unique_ptr<Control> control_;
};

}  // namespace octavo
