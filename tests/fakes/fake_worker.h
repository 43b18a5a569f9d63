#pragma once

// A worker of quantization jobs without a network, a disk or a kernel: it takes tasks from Control
// and answers with receipts whose digests depend on the unit only (unless told to lie).

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/control/control.h"
#include "coordinator/control/worker_client.h"

namespace octavo {

class FakeWorker final : public WorkerClient {
 public:
  void Send(const v1::Directive& directive) override {
    if (directive.has_task()) tasks.push_back(directive.task());
    if (directive.has_revoke()) {
      std::erase_if(tasks, [&](const v1::Task& task) {
        return task.job_id() == directive.revoke().job_id();
      });
    }
    directives.push_back(directive);
  }
  void Close(const absl::Status& why) override { closed = why; }

  // Joins as `id`; with `credits` it asks for tasks at once.
  static std::shared_ptr<FakeWorker> Join(Control& control, const std::string& id,
                                          uint32_t credits) {
    auto worker = std::make_shared<FakeWorker>();
    v1::Hello hello;
    hello.set_worker_id(id);
    hello.set_engine_address("127.0.0.1:1" + id);
    hello.set_memory_bytes(1u << 30);
    const auto session = control.Join(hello, worker);
    worker->session = session.ok() ? *session : 0;
    worker->control = &control;
    if (credits > 0) worker->Want(credits);
    return worker;
  }

  void Report(v1::Report report) { control->OnReport(session, std::move(report)); }
  void Want(uint32_t count) {
    v1::Report report;
    report.mutable_want()->set_count(count);
    Report(std::move(report));
  }
  void Beat() {
    v1::Report report;
    report.mutable_beat()->set_rss_peak_bytes(1000);
    Report(std::move(report));
  }

  // What an honest run of the task says; `salt` makes it say other digests.
  static v1::Receipt ReceiptOf(const v1::Task& task, uint64_t salt = 0) {
    v1::Receipt receipt;
    receipt.set_job_id(task.job_id());
    receipt.set_unit_id(task.unit().id());
    receipt.set_epoch(task.epoch());
    receipt.set_bytes_read(task.unit().source_bytes());
    receipt.set_bytes_written(task.unit().output_bytes());
    const bool writes = task.unit().kind() == v1::UNIT_COPY || task.unit().kind() == v1::UNIT_CAST;
    for (int i = 0; i < task.unit().pieces_size(); ++i) {
      const v1::Piece& piece = task.unit().pieces(i);
      if (!writes) {
        v1::PieceStat& stat = *receipt.add_stats();
        stat.set_piece(static_cast<uint32_t>(i));
        stat.set_tie_group(static_cast<uint32_t>(piece.tie_group()));
        stat.set_amax_bits(0x3f800000u + task.unit().id() + static_cast<uint32_t>(salt));
        if (task.unit().kind() == v1::UNIT_STAT_MSE) {
          for (int k = 0; k < 20; ++k) stat.add_mse_errors(k);
        }
        continue;
      }
      for (const v1::FileRange* range : {&piece.weight_out(), &piece.scale_out()}) {
        if (range->begin() == range->end()) continue;
        v1::RangeDigest& digest = *receipt.add_ranges();
        *digest.mutable_range() = *range;
        digest.mutable_digest()->set_low(range->begin() * 31 + range->file() + salt);
        digest.mutable_digest()->set_high(range->end());
      }
      if (task.unit().kind() != v1::UNIT_CAST) continue;
      v1::PieceReport& report = *receipt.add_reports();
      report.set_tensor(piece.source().name());
      report.set_squared_error(1e-4);
      report.set_squared_source(1);
      report.set_elements(100);
    }
    return receipt;
  }

  // Does its oldest task. False if it has none.
  bool DoOne(uint64_t salt = 0) {
    if (tasks.empty()) return false;
    v1::Report report;
    *report.mutable_receipt() = ReceiptOf(tasks.front(), salt);
    tasks.pop_front();
    ++done;
    Report(std::move(report));
    Want(1);
    return true;
  }

  void FailOne(const std::string& reason, bool retryable) {
    v1::Report report;
    v1::TaskFailed& failed = *report.mutable_task_failed();
    failed.set_job_id(tasks.front().job_id());
    failed.set_unit_id(tasks.front().unit().id());
    failed.set_epoch(tasks.front().epoch());
    failed.mutable_failure()->set_reason(reason);
    failed.mutable_failure()->set_message("it went wrong");
    failed.set_retryable(retryable);
    tasks.pop_front();
    Report(std::move(report));
    Want(1);
  }

  Control* control = nullptr;
  uint64_t session = 0;
  std::deque<v1::Task> tasks;
  std::vector<v1::Directive> directives;
  absl::Status closed;
  int done = 0;
};

// Slow steps run on real threads: rounds of `control` go on until `done`, for at most 20 s.
inline bool StepUntil(Control& control, const std::function<bool()>& done) {
  for (int i = 0; i < 20'000; ++i) {
    control.Step();
    if (done()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

}  // namespace octavo
