// The report beside a finished output.

#include <cerrno>
#include <cstdio>
#include <string>

#include "coordinator/control/job_steps.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/store/local_store.h"
#include "nlohmann/json.hpp"

namespace octavo {

std::string ReportText(const v1::Job& job, const JobTimes& times) {
  using nlohmann::ordered_json;
  const v1::JobProgress& progress = job.progress();
  ordered_json report;
  report["format"] = "octavo-report-1";
  report["job"] = job.id();
  report["recipe"] = job.request().recipe().name();
  report["source"] = job.request().source_dir();
  report["output"] = job.request().output_dir();
  report["seconds"] = {{"total", times.total_seconds},
                       {"planning", times.planning_seconds},
                       {"running", times.running_seconds},
                       {"publishing", times.publishing_seconds}};
  // Sums over threads of all workers.
  report["thread_seconds"] = {{"read", progress.read_seconds()},
                              {"cast", progress.cast_seconds()},
                              {"write", progress.write_seconds()}};
  report["units"] = {{"total", progress.units_total()},
                     {"reused", progress.units_reused()},
                     {"retries", progress.retries()}};
  report["bytes"] = {{"source", progress.source_bytes_total()},
                     {"read", progress.bytes_read()},
                     {"written", progress.bytes_written()}};
  report["source_bytes_per_second"] =
      times.total_seconds > 0 ? static_cast<double>(progress.bytes_read()) / times.total_seconds
                              : 0.0;
  report["workers"] = ordered_json::array();
  for (const v1::WorkerProgress& worker : progress.workers()) {
    report["workers"].push_back({{"id", worker.worker_id()},
                                 {"units", worker.units_done()},
                                 {"bytes_read", worker.bytes_read()},
                                 {"rss_peak_bytes", worker.rss_peak_bytes()}});
  }
  report["warnings"] = ordered_json::array();
  for (const v1::Warning& warning : job.warnings()) {
    report["warnings"].push_back({{"tensor", warning.tensor()}, {"text", warning.text()}});
  }
  return report.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

absl::Status WriteReport(const v1::Job& job, const JobTimes& times) {
  LocalStore store;
  const std::string temporary = job.report_path() + ".new";
  OCTAVO_RETURN_IF_ERROR(WriteWhole(store, temporary, ReportText(job, times)));
  if (std::rename(temporary.c_str(), job.report_path().c_str()) != 0) {
    return ErrnoError("cannot name the report", errno, {.file = job.report_path()});
  }
  return absl::OkStatus();
}

}  // namespace octavo
