#include "cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "cli/quantity.h"
#include "core/checkpoint/summary.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr std::chrono::milliseconds kPlainInterval{2'000};

double Fraction(const v1::JobProgress& progress) {
  return progress.work_total() > 0 ? progress.work_done() / progress.work_total() : 0;
}

double Pace(const v1::JobProgress& progress) {
  return progress.elapsed_seconds() > 0
             ? static_cast<double>(progress.bytes_read()) / progress.elapsed_seconds()
             : 0;
}

std::string StateText(v1::JobState state) {
  switch (state) {
    case v1::JOB_PLANNING:
      return "planning";
    case v1::JOB_RUNNING:
      return "running";
    case v1::JOB_PUBLISHING:
      return "publishing";
    case v1::JOB_DONE:
      return "done";
    case v1::JOB_FAILED:
      return "failed";
    case v1::JOB_CANCELLED:
      return "cancelled";
    default:
      return "unknown";
  }
}

std::string Tail(const v1::JobProgress& progress) {
  std::string text = RateText(Pace(progress));
  const double left = SecondsLeft(progress);
  if (left >= 0) text += fmt::format("  ETA {}", DurationText(left));
  const std::string limit = LimitingResource(progress);
  if (!limit.empty()) text += fmt::format("  limited by {}", limit);
  return text;
}

}  // namespace

std::string LimitingResource(const v1::JobProgress& progress) {
  const double read = progress.read_seconds(), cast = progress.cast_seconds(),
               write = progress.write_seconds();
  const double most = std::max({read, cast, write});
  if (most <= 0) return "";
  return most == read ? "read" : most == cast ? "cast" : "write";
}

double SecondsLeft(const v1::JobProgress& progress) {
  if (progress.elapsed_seconds() <= 0 || progress.work_of_run() <= 0) return -1;
  const double pace = progress.work_of_run() / progress.elapsed_seconds();
  return std::max(0.0, progress.work_total() - progress.work_done()) / pace;
}

std::vector<std::string> ProgressLines(const v1::Job& job, int width) {
  const v1::JobProgress& progress = job.progress();
  std::vector<std::string> lines;
  for (const v1::WorkerProgress& worker : progress.workers()) {
    lines.push_back(fmt::format(
        "  {:<10.10} {:<6} {:>5} units  {:>10}  {:>10} peak", worker.worker_id(), worker.state(),
        worker.units_done(), HumanBytes(worker.bytes_read()), HumanBytes(worker.rss_peak_bytes())));
  }
  lines.push_back(fmt::format("{} {:>3.0f} %  {} / {} units  {}  {}",
                              BarText(Fraction(progress), 24), 100 * Fraction(progress),
                              progress.units_done(), progress.units_total(), StateText(job.state()),
                              Tail(progress)));
  for (std::string& line : lines) {
    if (line.size() > static_cast<size_t>(width)) line.resize(static_cast<size_t>(width));
  }
  return lines;
}

std::string PlainLine(const v1::Job& job) {
  const v1::JobProgress& progress = job.progress();
  return fmt::format("{}: {:.0f} %, {} of {} units, {}, {} worker{}, {}", StateText(job.state()),
                     100 * Fraction(progress), progress.units_done(), progress.units_total(),
                     HumanBytes(progress.source_bytes_done()), progress.workers_size(),
                     progress.workers_size() == 1 ? "" : "s", Tail(progress));
}

ProgressDisplay::ProgressDisplay(std::FILE* out) : out_(out), terminal_(isatty(fileno(out)) == 1) {}

void ProgressDisplay::Show(const v1::Job& job) {
  if (terminal_) {
    winsize size = {};
    const bool known = ioctl(fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 20;
    Redraw(ProgressLines(job, known ? size.ws_col - 1 : 79));
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now < plain_next_) return;
  plain_next_ = now + kPlainInterval;
  std::string line = PlainLine(job);
  if (line == plain_last_) return;
  fmt::print(out_, "{}\n", line);
  std::fflush(out_);
  plain_last_ = std::move(line);
}

void ProgressDisplay::Redraw(const std::vector<std::string>& lines) {
  if (drawn_lines_ > 0) fmt::print(out_, "\x1b[{}A", drawn_lines_);
  for (const std::string& line : lines) fmt::print(out_, "\x1b[2K{}\n", line);
  // Workers that left: blank their lines, and come back up.
  for (size_t i = lines.size(); i < drawn_lines_; ++i) fmt::print(out_, "\x1b[2K\n");
  if (drawn_lines_ > lines.size()) fmt::print(out_, "\x1b[{}A", drawn_lines_ - lines.size());
  std::fflush(out_);
  drawn_lines_ = lines.size();
}

void ProgressDisplay::Finish() { drawn_lines_ = 0; }

}  // namespace octavo
