#include "worker/service/task_runner.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/base/error.h"
#include "core/base/fault.h"
#include "core/base/log.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

// Every wait looks at its stop token this often.
constexpr milliseconds kTaskPoll{200};
// Receipts that may wait for a sync before no more tasks are asked for.
constexpr size_t kUnsyncedMax = 64;

}  // namespace

TaskRunner::TaskRunner(int slots, Hooks hooks) : slots_(slots), hooks_(std::move(hooks)) {
  for (int i = 0; i < slots; ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) { RunLoop(stop); });
  }
  threads_.emplace_back([this](const std::stop_token& stop) { ReceiptLoop(stop); });
}

TaskRunner::~TaskRunner() {
  Detached();
  for (std::jthread& thread : threads_) thread.request_stop();
  {
    MutexLock lock(mutex_);
    changed_.NotifyAll();
  }
  threads_.clear();
}

void TaskRunner::Attached() {
  {
    MutexLock lock(mutex_);
    attached_ = true;
    // Tasks of the last lease that are still stopping give their room back when they have.
    room_ = static_cast<uint32_t>(2 * slots_ - std::ssize(running_));
  }
  Ask();
}

void TaskRunner::Detached() {
  MutexLock lock(mutex_);
  attached_ = false;
  room_ = 0;
  waiting_.clear();
  for (const EntryPtr& entry : running_) entry->stop.request_stop();
  for (const EntryPtr& entry : finished_) entry->stop.request_stop();
}

void TaskRunner::Add(v1::Task task) {
  FaultPoint("leased");
  hooks_.prefetch(task);
  MutexLock lock(mutex_);
  if (!attached_) return;
  auto entry = std::make_shared<Entry>();
  entry->task = std::move(task);
  waiting_.push_back(std::move(entry));
  changed_.NotifyAll();
}

void TaskRunner::Revoke(const std::string& job_id) {
  {
    MutexLock lock(mutex_);
    const auto dropped = std::erase_if(
        waiting_, [&](const EntryPtr& entry) { return entry->task.job_id() == job_id; });
    room_ += static_cast<uint32_t>(dropped);
    for (auto* list : {&running_, &finished_}) {
      for (const EntryPtr& entry : *list) {
        if (entry->task.job_id() == job_id) entry->stop.request_stop();
      }
    }
  }
  Ask();
}

void TaskRunner::RunLoop(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    EntryPtr entry;
    {
      MutexLock lock(mutex_);
      if (waiting_.empty()) {
        changed_.WaitFor(mutex_, kTaskPoll);
        continue;
      }
      entry = std::move(waiting_.front());
      waiting_.pop_front();
      running_.push_back(entry);
    }
    RunOne(*entry);
    {
      MutexLock lock(mutex_);
      std::erase(running_, entry);
      if (entry->done && !entry->stop.stop_requested()) {
        finished_.push_back(entry);
        changed_.NotifyAll();
      }
      ++room_;
    }
    Ask();
  }
}

void TaskRunner::RunOne(Entry& entry) {
  absl::StatusOr<v1::Receipt> receipt = hooks_.run(entry.task, entry.stop.get_token());
  if (entry.stop.stop_requested()) return;
  if (!receipt.ok()) {
    SendFailure(entry.task, receipt.status());
    return;
  }
  entry.receipt = *std::move(receipt);
  entry.done = true;
}

void TaskRunner::ReceiptLoop(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    std::vector<EntryPtr> batch;
    {
      MutexLock lock(mutex_);
      std::erase_if(finished_, [](const EntryPtr& e) { return e->stop.stop_requested(); });
      if (finished_.empty()) {
        changed_.WaitFor(mutex_, kTaskPoll);
        continue;
      }
      batch = finished_;
    }
    SendBatch(batch);
    {
      MutexLock lock(mutex_);
      finished_.erase(finished_.begin(), finished_.begin() + std::ssize(batch));
    }
    Ask();
  }
}

void TaskRunner::SendBatch(const std::vector<EntryPtr>& batch) {
  const absl::Status synced = hooks_.sync();
  FaultPoint("before-receipt");
  for (const EntryPtr& entry : batch) {
    if (entry->stop.stop_requested()) continue;
    if (!synced.ok()) {
      SendFailure(entry->task, synced);
      continue;
    }
    v1::Report report;
    *report.mutable_receipt() = std::move(entry->receipt);
    hooks_.send(std::move(report));
  }
}

void TaskRunner::SendFailure(const v1::Task& task, const absl::Status& status) {
  const ReasonInfo& info = InfoOf(ReasonOf(status));
  spdlog::warn("unit {} of job {} failed: {}", task.unit().id(), task.job_id(),
               std::string(status.message()));
  v1::Report report;
  v1::TaskFailed& failed = *report.mutable_task_failed();
  failed.set_job_id(task.job_id());
  failed.set_unit_id(task.unit().id());
  failed.set_epoch(task.epoch());
  failed.mutable_failure()->set_reason(std::string(info.name));
  failed.mutable_failure()->set_message(std::string(status.message()));
  failed.set_retryable(info.retryable);
  hooks_.send(std::move(report));
}

void TaskRunner::Ask() {
  v1::Report report;
  {
    MutexLock lock(mutex_);
    if (!attached_ || room_ == 0 || finished_.size() > kUnsyncedMax) return;
    report.mutable_want()->set_count(room_);
    room_ = 0;
  }
  hooks_.send(std::move(report));
}

}  // namespace octavo
