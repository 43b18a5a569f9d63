#pragma once

// What calibration kept at one point of a layer. Of experts: how much each of them saw, and which
// rows their Hessians and the mean of those are summed over. A file holds the rows of one
// micro-batch, one expert after the other. Private to worker/stage.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// Rows `begin`, `begin + step`, ... of what was kept of one micro-batch.
struct KeptRows {
  uint32_t batch = 0;
  uint64_t begin = 0;
  int64_t count = 0;
  int64_t step = 1;
};

class ExpertRows {
 public:
  // From the statistics of the micro-batches in the scratch folder `dir`. kInputMissing, kIo,
  // kCorrupted.
  static absl::StatusOr<ExpertRows> Read(const std::string& dir, uint32_t layer,
                                         v1::ObservedPoint point, int batches);

  // Rows that an expert saw.
  int64_t CountOf(int32_t expert) const;
  // True if some expert has few enough rows to be shrunk, and not too few for that.
  bool AnyShrinks(int64_t channels) const;

  // All rows of an expert, in order.
  std::vector<KeptRows> Of(int32_t expert) const;
  // Of all experts' rows, by (micro-batch, expert, row): the first and every so-manieth after it,
  // so that they are `most` at most. Depends on nothing but what was kept.
  std::vector<KeptRows> OfAll(int64_t most) const;

 private:
  std::vector<std::vector<int64_t>> counts_;  // by micro-batch and expert
};

// Those that a dense layer kept of the tokens that the task's unit is about.
std::vector<KeptRows> KeptOfTokens(const v1::Task& task);

// Rows in all.
int64_t CountRows(const std::vector<KeptRows>& rows);

}  // namespace octavo
