#include "worker/stage/quantize.h"

#include <map>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/base/status.h"
#include "worker/stage/buffer_budget.h"
#include "worker/stage/unit_files.h"
#include "worker/stage/unit_run.h"

namespace octavo {

struct QuantizeStage::State {
  explicit State(const Options& options) : isa(options.isa), budget(options.buffer_bytes) {}

  const Isa isa;
  BufferBudget budget;
  Mutex mutex;
  std::map<std::string, SharedFile> touched OCTAVO_GUARDED_BY(mutex);  // by path
};

QuantizeStage::QuantizeStage(const Options& options) : state_(std::make_unique<State>(options)) {}

QuantizeStage::~QuantizeStage() = default;

absl::StatusOr<v1::Receipt> QuantizeStage::Run(const v1::Task& task, std::stop_token stop) {
  OCTAVO_ASSIGN_OR_RETURN(
      const std::unique_ptr<UnitRun> run,
      UnitRun::Open(
          task, [&](const QuantizeRule& rule) { return MakeQuantizer(rule, state_->isa); },
          &state_->budget, stop));
  OCTAVO_RETURN_IF_ERROR(run->Do());
  MutexLock lock(state_->mutex);
  // The descriptor opened first stays: it sees errors of all write-back since.
  for (const auto& [index, file] : run->outputs()) state_->touched.emplace(file->path(), file);
  return run->TakeReceipt();
}

void QuantizeStage::Prefetch(const v1::Task& task) {
  auto sources = SourceFiles::Open(task);
  if (sources.ok()) ExpectReads(task, &*sources);  // else Run will say what is wrong
}

absl::Status QuantizeStage::SyncTouched() {
  std::map<std::string, SharedFile> files;
  {
    MutexLock lock(state_->mutex);
    files.swap(state_->touched);
  }
  absl::Status first;
  for (const auto& [path, file] : files) {
    const absl::Status status = file->Sync();
    if (first.ok()) first = status;
  }
  return first;
}

uint64_t QuantizeStage::buffer_bytes_in_use() const { return state_->budget.in_use(); }

uint64_t QuantizeStage::buffer_bytes_peak() const { return state_->budget.peak(); }

}  // namespace octavo
