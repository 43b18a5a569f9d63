#pragma once

// The progress of a job for people: on a terminal a line per worker and a bar that are redrawn in
// place, elsewhere a plain line now and then. Everything goes to standard error; results go to
// standard output.

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "octavo/v1/job.pb.h"

namespace octavo {

// What limits a job so far, from the times its units spent: "read", "cast", "write", or "" while
// nothing is done.
std::string LimitingResource(const v1::JobProgress& progress);

// Seconds left at the pace so far; negative while unknown. Units of earlier runs do not count.
double SecondsLeft(const v1::JobProgress& progress);

// The lines of the display: one per worker, then the bar. `width` columns at most.
std::vector<std::string> ProgressLines(const v1::Job& job, int width);

// One line for a log.
std::string PlainLine(const v1::Job& job);

class ProgressDisplay {
 public:
  // Draws in place if `out` is a terminal.
  explicit ProgressDisplay(std::FILE* out);
  void Show(const v1::Job& job);
  // Leaves the last state on the screen.
  void Finish();

 private:
  void Redraw(const std::vector<std::string>& lines);

  std::FILE* out_;
  bool terminal_;
  size_t drawn_lines_ = 0;
  std::chrono::steady_clock::time_point plain_next_;
  std::string plain_last_;
};

}  // namespace octavo
