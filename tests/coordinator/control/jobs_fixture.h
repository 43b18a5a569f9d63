#pragma once

// Control over a memory store, fake workers, a real source and a real output folder.

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/control/control.h"
#include "coordinator/control/job_journal.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/checkpoint/synth.h"
#include "core/scheme/recipe.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_worker.h"
#include "tests/fakes/memory_state_store.h"

namespace octavo {

namespace fs = std::filesystem;

// Joint scales over q/k/v and gate/up: three phases.
constexpr char kPhases[] =
    "name: phases\ndescription: joint scales\ndialect: compressed-tensors\nrules:\n"
    "  - weight: {type: fp8, scale: tensor}\n    input: {type: fp8, scale: token}\n"
    "    algorithm: mse\n";

// A source of about 90 MB, made once: a dozen units.
class JobsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    root_ = new fs::path(fs::temp_directory_path() / ("octavo-jobs-" + RandomHex(8)));
    fs::create_directories(*root_);
    MakeSource(*root_ / "source");
  }
  static void TearDownTestSuite() {
    fs::remove_all(*root_);
    delete root_;
  }
  static void MakeSource(const fs::path& dir) {
    SynthSpec spec;
    spec.model.set_hidden_size(1024);
    spec.model.set_intermediate_size(4096);
    spec.model.set_layer_count(3);
    spec.model.set_head_count(8);
    spec.model.set_kv_head_count(4);
    spec.model.set_vocab_size(320);
    const absl::Status written = WriteSynthetic(spec, 7, dir.string());
    ASSERT_TRUE(written.ok()) << written;
  }

  JobsTest() : output_(*root_ / ("out-" + RandomHex(4))) { Restart(); }
  ~JobsTest() override { control_.reset(); }

  // A coordinator over what the store and the disk hold.
  void Restart() {
    control_.reset();
    ControlOptions options;
    options.clock = &clock_;
    options.own_thread = false;
    auto started = Control::Start(options, &store_, &models_, &metrics_);
    ASSERT_TRUE(started.ok()) << started.status();
    control_ = *std::move(started);
  }

  v1::SubmitJobRequest Request(const std::string& recipe = "fp8-dynamic") const {
    v1::SubmitJobRequest request;
    request.mutable_quantize()->set_source_dir((*root_ / "source").string());
    request.mutable_quantize()->set_output_dir(output_.string());
    *request.mutable_quantize()->mutable_recipe() =
        recipe == "phases" ? *ParseRecipe(kPhases, "phases.yaml") : *Preset(recipe);
    return request;
  }

  std::string Submit(const v1::SubmitJobRequest& request) {
    const auto job = control_->Submit(request);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? job->id() : "";
  }
  v1::Job Job(const std::string& id) { return *control_->GetJob(id); }

  bool RoundsUntil(const std::function<bool()>& done) { return StepUntil(*control_, done); }
  bool RoundsUntilState(const std::string& id, v1::JobState state) {
    return RoundsUntil([&] { return Job(id).state() == state; });
  }
  // Workers do all they get until the job leaves RUNNING.
  bool WorkUntil(const std::string& id, v1::JobState state,
                 const std::vector<std::shared_ptr<FakeWorker>>& workers) {
    return RoundsUntil([&] {
      for (const auto& worker : workers) worker->DoOne();
      return Job(id).state() == state;
    });
  }
  // Over names and bytes of all files of the output.
  std::string OutputDigest() const {
    std::map<std::string, fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(output_)) {
      files[entry.path().filename()] = entry.path();
    }
    DigestStream all;
    std::string buffer(1 << 20, '\0');
    for (const auto& [name, path] : files) {
      all.Add(name);
      std::ifstream file(path, std::ios::binary);
      do {
        file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
        all.Add(std::string_view(buffer).substr(0, static_cast<size_t>(file.gcount())));
      } while (file);
    }
    return all.Finish().Hex();
  }

  static inline fs::path* root_ = nullptr;
  const fs::path output_;
  ManualClock clock_;
  MemoryStateStore store_;
  ModelTable models_;
  Metrics metrics_{MetricHome::kCoordinator, "test"};
  std::unique_ptr<Control> control_;
};
}  // namespace octavo
