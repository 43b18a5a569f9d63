// bench quantize: wall time over the bound of the machine.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "cli/bench.h"
#include "cli/job_client.h"
#include "cli/job_folder.h"
#include "cli/progress.h"
#include "cli/recipe_source.h"
#include "cli/stop_signal.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;

// Takes the files of a folder out of the page cache.
absl::Status Evict(const std::string& dir) {
  for (const auto& entry : fs::directory_iterator(dir)) {
    OwnedFd fd(open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    if (fd.get() < 0) return ErrnoError("cannot open", errno, {.file = entry.path().string()});
    fdatasync(fd.get());
    if (const int error = posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED); error != 0) {
      return ErrnoError("cannot evict", error, {.file = entry.path().string()});
    }
  }
  return absl::OkStatus();
}

struct Timed {
  v1::Job job;
  double seconds = 0;
  uint64_t rss_peak_bytes = 0;  // of the largest worker
};

absl::StatusOr<Timed> TimeJob(const Context& context, const BenchFlags& flags,
                              const std::string& source, const std::string& out) {
  std::error_code ignored;
  fs::remove_all(out, ignored);
  StopSignal stop;
  v1::SubmitJobRequest request;
  request.mutable_quantize()->set_source_dir(source);
  request.mutable_quantize()->set_output_dir(out);
  OCTAVO_ASSIGN_OR_RETURN(
      *request.mutable_quantize()->mutable_recipe(),
      LoadRecipe(flags.recipe.empty() ? std::string("fp8-dynamic") : flags.recipe));
  OCTAVO_ASSIGN_OR_RETURN(auto folder, JobFolder::Open(out));
  OCTAVO_ASSIGN_OR_RETURN(auto session, folder->StartCluster(context, flags.cluster, stop));
  OCTAVO_RETURN_IF_ERROR(Evict(source));
  Timed timed;
  ProgressDisplay display(stderr);
  const auto start = std::chrono::steady_clock::now();
  OCTAVO_ASSIGN_OR_RETURN(timed.job, SubmitJob(*session, stop, request));
  if (!IsTerminal(timed.job.state())) {
    OCTAVO_ASSIGN_OR_RETURN(
        Followed followed, FollowJob(*session, stop, timed.job.id(), [&](const v1::Job& job) {
          display.Show(job);
          for (const v1::WorkerProgress& worker : job.progress().workers()) {
            timed.rss_peak_bytes = std::max(timed.rss_peak_bytes, worker.rss_peak_bytes());
          }
        }));
    timed.job = std::move(followed.job);
  }
  timed.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  display.Finish();
  OCTAVO_RETURN_IF_ERROR(OutcomeOf(timed.job));
  return timed;
}

BenchRow Judge(const Timed& best, const BenchFlags& flags, const ProbeRates& probe) {
  const double source_bytes = static_cast<double>(best.job.progress().source_bytes_total());
  const double output_bytes = static_cast<double>(best.job.progress().bytes_written());
  const std::vector<std::pair<std::string, double>> bounds = {
      {"read", source_bytes / probe.disk_read},
      {"write", output_bytes / probe.disk_write},
      {"disk", (source_bytes + output_bytes) / probe.disk_both},
      {"cast", source_bytes / probe.cast_all},
      {"verify", output_bytes / probe.digest_all + output_bytes / probe.page_cache_read_all}};
  const auto bound =
      *std::max_element(bounds.begin(), bounds.end(),
                        [](const auto& a, const auto& b) { return a.second < b.second; });
  BenchRow row;
  row.name = "quantize";
  row.value = best.seconds;
  row.unit = "s";
  row.bound = bound.second;
  row.bound_name = bound.first;
  row.ratio = row.value / row.bound;
  row.bar = "<= 1.5";
  for (const auto& [name, seconds] : bounds) row.details[name + "_seconds"] = seconds;
  row.details["source_bytes"] = source_bytes;
  row.details["output_bytes"] = output_bytes;
  row.details["rss_peak_bytes"] = best.rss_peak_bytes;
  row.details["memory"] = flags.cluster.memory;
  row.details["workers"] = flags.cluster.workers;
  return row;
}

}  // namespace

absl::StatusOr<BenchJudge> BenchQuantize(const Context& context, const BenchFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string source, BenchSource(flags));
  const std::string out = flags.dir + "/bench-out";
  Timed best;
  for (int round = 0; round < flags.rounds; ++round) {
    OCTAVO_ASSIGN_OR_RETURN(const Timed timed, TimeJob(context, flags, source, out));
    if (round == 0 || timed.seconds < best.seconds) best = timed;
  }
  std::error_code ignored;
  fs::remove_all(out, ignored);

  return [best, flags](const ProbeRates& probe) { return Judge(best, flags, probe); };
}

absl::StatusOr<std::string> BenchQuantized(const Context& context, const BenchFlags& flags,
                                           const std::string& source) {
  std::string out =
      fmt::format("{}/{}-{}", flags.dir, fs::path(source).filename().string(), flags.recipe);
  if (!fs::exists(out)) {
    OCTAVO_RETURN_IF_ERROR(TimeJob(context, flags, source, out).status());
  }
  return out;
}

}  // namespace octavo
