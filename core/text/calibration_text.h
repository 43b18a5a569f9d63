#pragma once

// Samples of token ids, with which a model is calibrated, out of what a user hands over. Pure: the
// bytes of a file, a tokenizer and settings in, ids out, the same for any number of threads.
//
// Plain text is read as for perplexity (docs/numerics.md): tokenized once with the tokenizer's own
// special tokens. The texts of JSON lines are joined with two line feeds first. Conversations go
// through the model's chat template, which writes BOS itself: no special tokens are added. What
// `strftime_now` shows to a template is 2025-01-01, so that the ids do not depend on the day.
// Padding does not exist, but for the option that asks for it.
//
// The samples are the first ones, and no more is read and checked than they need; with a seed they
// are chosen without replacement from all that the file has, in the order of the file. The choice
// with N samples is part of the choice with more.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/text/calibration_file.h"
#include "core/text/text_bundle.h"

namespace octavo {

inline constexpr size_t kCalibrationSamplesMax = size_t{1} << 16;
// Of all samples: 64 MiB of I32.
inline constexpr size_t kCalibrationTokensMax = size_t{1} << 24;

enum class CalibrationPacking {
  kPack,  // all ids of the file, one after the other, cut into samples of exactly sample_length
  kEach,  // a line that is not blank is a sample, cut at sample_length; short ones stay short
};

struct CalibrationOptions {
  size_t samples = 0;                              // at most so many; at least 1
  size_t sample_length = 0;                        // tokens; at least 1
  std::optional<uint64_t> seed = {};               // absent: the first samples; 0 for random ids
  std::optional<CalibrationPacking> packing = {};  // absent: kPack for text, else kEach
  // As scripts around a tokenizer do it that take a template's output for plain text: it gets the
  // tokenizer's special tokens too (BOS twice), and samples that are lines of text or messages are
  // padded with EOS at their ends to the longest of them, tokens like any other.
  bool as_text_padded = false;
  size_t threads = 1;
  // Called now and then, by one thread at a time, with bytes of the file; false stops.
  std::function<bool(uint64_t done, uint64_t total)> progress = {};
};

struct CalibrationSamples {
  std::vector<uint32_t> lengths;  // tokens, each at least 1
  std::vector<int32_t> ids;       // of all samples, one after the other
};

// The longest stretch of text that is tokenized at once, cut after a line feed where there is one;
// a longer text is tokenized stretch by stretch, each a text of its own.
inline constexpr size_t kCalibrationStretchBytes = kEncodeBytesMax;

// `vocabulary`: of the model; every id is below. `text` may be null for kJsonIds. Errors:
// kBadRequest for options beyond the bounds above; kBadData for what calibration_file.h refuses, a
// template that fails, a line without any token, and where the file is too short for one sample;
// kBadCheckpoint where the tokenizer makes ids that the model does not have; kUnsupported for
// messages without a chat template, or for padding with an EOS that the tokenizer lacks;
// kCancelled. They name the file and, of lines, the line.
absl::StatusOr<CalibrationSamples> CalibrationFromFile(const CalibrationFile& file,
                                                       const TextBundle* text, int64_t vocabulary,
                                                       const CalibrationOptions& options);

// Samples of exactly sample_length, every id uniform over the vocabulary: a function of the seed,
// the sample's index and the position in it alone (core/tensor/bare/philox.h, stream 1).
absl::StatusOr<CalibrationSamples> RandomCalibration(int64_t vocabulary,
                                                     const CalibrationOptions& options);

// `wanted` (or all) of 0..count-1 without replacement, ascending: by Philox, stream 2.
std::vector<size_t> ChooseSamples(size_t count, size_t wanted, uint64_t seed);

}  // namespace octavo
