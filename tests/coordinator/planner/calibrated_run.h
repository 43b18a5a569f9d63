#pragma once

// A calibrated job in one process: staged, and done by threads that take its units in any order
// that phases and layers allow.

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/planner/calibration_plan.h"
#include "coordinator/planner/publish.h"
#include "coordinator/planner/quantize_plan.h"
#include "core/base/checksum.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/synth.h"
#include "core/plan/scratch_files.h"
#include "core/store/local_store.h"
#include "gtest/gtest.h"
#include "tests/fakes/tiny_llama.h"
#include "worker/stage/calibrate.h"
#include "worker/stage/quantize.h"

namespace octavo {

inline constexpr int kVocabulary = 320;

inline SynthSpec Spec(const std::string& family) {
  SynthSpec spec;
  spec.model.set_family(family);
  spec.model.set_hidden_size(96);
  spec.model.set_intermediate_size(176);
  spec.model.set_layer_count(3);
  spec.model.set_head_count(6);
  spec.model.set_kv_head_count(2);
  spec.model.set_vocab_size(kVocabulary);
  if (family == "mixtral" || family == "dbrx") {
    spec.model.set_expert_count(4);
    spec.model.set_experts_per_token(2);
  }
  return spec;
}

inline v1::CalibrationSet RandomSamples(int count, uint32_t seed) {
  std::mt19937 random(seed);
  v1::CalibrationSet set;
  for (int i = 0; i < count; ++i) {
    const uint32_t length = 5 + random() % 60;
    set.add_sample_lengths(length);
    for (uint32_t j = 0; j < length; ++j) {
      const auto id = static_cast<int32_t>(random() % kVocabulary);
      set.mutable_ids()->append(reinterpret_cast<const char*>(&id), 4);
    }
  }
  const Digest128 digest = DigestOf(set.ids());
  set.mutable_digest()->set_low(digest.low);
  set.mutable_digest()->set_high(digest.high);
  return set;
}

struct Made {
  v1::Job job;
  v1::Plan plan;
  std::vector<v1::Receipt> receipts;  // by unit
};

// A job of a plan, staged and ready to run.
inline Made Staged(const std::string& source, const std::string& output,
                   const absl::StatusOr<Checkpoint>& checkpoint,
                   const absl::StatusOr<v1::Plan>& plan, const v1::CalibrationSet& set) {
  Made run;
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(plan.ok()) << plan.status();
  run.plan = *plan;
  run.job.set_id("job");
  run.job.mutable_request()->set_source_dir(source);
  run.job.mutable_request()->set_output_dir(output);
  run.job.set_staging_dir(output + ".octavo/job");
  for (const auto& file : checkpoint->files) *run.job.add_sources() = file;
  run.receipts.resize(run.plan.units_size());
  LocalStore store;
  EXPECT_TRUE(StageFolder(run.job, run.plan).ok());
  const std::string scratch = ScratchDirOf(run.job.staging_dir());
  EXPECT_TRUE(store.CreateDirectories(scratch).ok());
  EXPECT_TRUE(WriteWhole(store, JoinPath(scratch, kIdsFileName), set.ids()).ok());
  return run;
}

inline Made Prepare(const std::string& source, const std::string& output, const v1::Recipe& recipe,
                    const v1::CalibrationSet& set) {
  const auto checkpoint = OpenCheckpoint(source);
  return Staged(source, output, checkpoint, BuildPlan(*checkpoint, recipe, set), set);
}

struct Stages {
  explicit Stages(Isa isa, uint64_t memory = 64u << 20)
      : calibrate({.memory_bytes = memory, .threads = 2, .isa = isa}), quantize({.isa = isa}) {}
  CalibrateStage calibrate;
  QuantizeStage quantize;
};

inline absl::Status DoUnit(Made* run, Stages* stages, uint32_t unit) {
  const v1::Task task = MakeTask(run->job, run->plan, unit, 1, {});
  auto receipt = CalibrateStage::Does(run->plan.units(static_cast<int>(unit)).kind())
                     ? stages->calibrate.Run(task, {})
                     : stages->quantize.Run(task, {});
  if (!receipt.ok()) return receipt.status();
  run->receipts[unit] = *std::move(receipt);
  return absl::OkStatus();
}

// Every unit once, in a random order that phases and the order of layers allow, on several threads.
class Workers {
 public:
  Workers(Made* made, Stages* stages, uint32_t seed)
      : made_(made),
        stages_(stages),
        random_(seed),
        left_(made->plan.units_size()),
        done_(left_.size()),
        per_phase_(UnitsPerPhase(made->plan)),
        done_per_phase_(per_phase_.size()) {
    std::iota(left_.begin(), left_.end(), 0);
  }

  absl::Status Run(int threads) {
    {
      std::vector<std::jthread> pool;
      for (int i = 0; i < threads; ++i) pool.emplace_back([this] { Loop(); });
    }
    if (!status_.ok()) return status_;
    return stages_->calibrate.SyncTouched();
  }

 private:
  bool IsReady(uint32_t unit) const {
    const auto before = UnitBefore(made_->plan, made_->plan.units(static_cast<int>(unit)));
    return UnitReady(made_->plan, per_phase_, done_per_phase_, unit) && (!before || done_[*before]);
  }

  void Loop() {
    std::unique_lock lock(mutex_);
    while (!left_.empty() && status_.ok()) {
      const size_t at = random_() % left_.size();
      const uint32_t unit = left_[at];
      if (!IsReady(unit)) {
        lock.unlock();
        std::this_thread::yield();
        lock.lock();
        continue;
      }
      left_.erase(left_.begin() + static_cast<int64_t>(at));
      lock.unlock();
      const absl::Status status = DoUnit(made_, stages_, unit);
      lock.lock();
      status_.Update(status);
      done_[unit] = true;
      ++done_per_phase_[made_->plan.units(static_cast<int>(unit)).phase()];
    }
  }

  Made* made_;
  Stages* stages_;
  std::mutex mutex_;
  std::mt19937 random_;
  std::vector<uint32_t> left_;
  std::vector<bool> done_;
  const std::vector<uint32_t> per_phase_;
  std::vector<uint32_t> done_per_phase_;
  absl::Status status_;
};

inline std::map<std::string, std::string> Contents(const std::string& dir) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    out[entry.path().filename().native()] = ReadText(entry.path());
  }
  return out;
}

// Everything of a finished job, by file name.
inline std::map<std::string, std::string> Finished(Made* run, Stages* stages, uint32_t seed,
                                                   int threads = 1) {
  const absl::Status status = Workers(run, stages, seed).Run(threads);
  EXPECT_TRUE(status.ok()) << status;
  const absl::Status finished = FinishFolder(run->job, run->plan, run->receipts);
  EXPECT_TRUE(finished.ok()) << finished;
  return Contents(run->job.staging_dir());
}

// The same job three times, made by `prepare(name)`: by the best kernels, by the reference ones in
// another order, and on three threads in little memory. The files are the same; those of `first`,
// the first one, are returned.
template <typename Prepare>
std::map<std::string, std::string> FinishedAlike(Prepare prepare, Made* first) {
  Stages wide(BestIsa());
  Stages plain(Isa::kReference);
  Stages tight(BestIsa(), 9u << 20);
  *first = prepare("a");
  Made second = prepare("b");
  Made third = prepare("c");
  auto files = Finished(first, &wide, 1);
  EXPECT_EQ(files, Finished(&second, &plain, 2));
  EXPECT_EQ(files, Finished(&third, &tight, 3, 3));
  return files;
}

}  // namespace octavo
