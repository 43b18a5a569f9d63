#include "core/text/calibration_text.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/tensor/bare/philox.h"
#include "core/text/ordered_tasks.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Ids = std::vector<int32_t>;

constexpr uint32_t kRandomStream = 1;
constexpr uint32_t kChoiceStream = 2;
constexpr std::chrono::sys_days kTemplateDay = std::chrono::year{2025} / 1 / 1;
constexpr std::string_view kTextJoint = "\n\n";
constexpr size_t kWaveLinesPerThread = 32;

absl::Status CheckOptions(int64_t vocabulary, const CalibrationOptions& options) {
  const auto bad = [](std::string what) { return MakeError(Reason::kBadRequest, what); };
  if (options.samples < 1 || options.samples > kCalibrationSamplesMax) {
    return bad(fmt::format("{} calibration samples; there are 1 to {}", options.samples,
                           kCalibrationSamplesMax));
  }
  if (options.sample_length < 1 ||
      options.sample_length > kCalibrationTokensMax / options.samples) {
    return bad(fmt::format("{} calibration samples of {} tokens; there are at most {} tokens",
                           options.samples, options.sample_length, kCalibrationTokensMax));
  }
  if (options.threads < 1) return bad("no thread to read calibration text with");
  if (vocabulary < 1 || vocabulary > std::numeric_limits<int32_t>::max()) {
    return bad(fmt::format("a vocabulary of {}", vocabulary));
  }
  return absl::OkStatus();
}

// Tells how far it is, and learns whether to stop.
class Reporter {
 public:
  Reporter(const CalibrationOptions& options, uint64_t total)
      : progress_(options.progress), total_(total) {}

  absl::Status Add(uint64_t bytes) {
    if (!progress_) return absl::OkStatus();
    MutexLock lock(mutex_);
    done_ += bytes;
    if (progress_(std::min(done_, total_), total_)) return absl::OkStatus();
    return MakeError(Reason::kCancelled, "interrupted while calibration text was tokenized");
  }

 private:
  const std::function<bool(uint64_t, uint64_t)>& progress_;
  const uint64_t total_;
  Mutex mutex_;
  uint64_t done_ OCTAVO_GUARDED_BY(mutex_) = 0;
};

// Bytes of the first stretch of `text`. REQUIRES: valid UTF-8, not empty.
size_t StretchSize(std::string_view text) {
  if (text.size() <= kCalibrationStretchBytes) return text.size();
  const size_t feed = text.rfind('\n', kCalibrationStretchBytes - 1);
  if (feed != std::string_view::npos) return feed + 1;
  size_t size = kCalibrationStretchBytes;
  while ((static_cast<uint8_t>(text[size]) & 0xc0) == 0x80) --size;  // inside a character
  return size;
}

// Turns parts of one file into ids.
class Reader {
 public:
  Reader(const CalibrationFile& file, const TextBundle* text, int64_t vocabulary,
         const CalibrationOptions& options)
      : file_(file),
        text_(text),
        vocabulary_(vocabulary),
        options_(options),
        reporter_(options, file.bytes.size()) {}

  // Every chosen line, cut at `length_max`.
  absl::StatusOr<std::vector<Ids>> IdsOfLines(std::span<const CalibrationLine> lines,
                                              size_t length_max);
  // At least `wanted` ids of the whole file, or all of them.
  absl::StatusOr<Ids> Stream(size_t wanted);
  // EOS after every sample, up to the length of the longest.
  absl::Status PadWithEos(std::vector<Ids>* samples) const;

 private:
  absl::StatusOr<Ids> IdsOf(const CalibrationLine& line) const;
  // `line`: where the text is from, in errors; null for the file as a whole.
  absl::StatusOr<Ids> Encode(std::string_view text, EncodeOptions options,
                             const CalibrationLine* line) const;
  absl::StatusOr<Ids> EncodeConversation(const CalibrationLine& line) const;
  // Appends the ids of as many stretches as there are threads. Returns the bytes taken.
  // REQUIRES: where more text follows, more than one stretch.
  absl::StatusOr<size_t> EncodeStretches(std::string_view text, bool more_follows, Ids* stream);
  // Appends texts, each but the file's first with the joint before it.
  absl::Status JoinTexts(std::span<const CalibrationLine> lines, bool first,
                         std::string* joined) const;
  absl::StatusOr<Ids> StreamOfText(size_t wanted);
  absl::StatusOr<Ids> StreamOfTexts(size_t wanted);
  absl::StatusOr<Ids> StreamOfLines(size_t wanted);

  const CalibrationFile& file_;
  const TextBundle* const text_;
  const int64_t vocabulary_;
  const CalibrationOptions& options_;
  Reporter reporter_;
};

absl::StatusOr<Ids> Reader::Encode(std::string_view text, EncodeOptions options,
                                   const CalibrationLine* line) const {
  absl::StatusOr<Ids> ids = text_->tokenizer->Encode(text, options);
  const std::string where = line == nullptr ? "" : fmt::format("line {}: ", line->number);
  if (!ids.ok()) {
    return MakeError(ReasonOf(ids.status()), where + std::string(ids.status().message()),
                     {.file = file_.name});
  }
  const auto alien = std::ranges::find_if(*ids, [&](int32_t id) { return id >= vocabulary_; });
  if (alien == ids->end()) return ids;
  return MakeError(
      Reason::kBadCheckpoint,
      fmt::format("{}the tokenizer does not fit the model: \"{}\" has the id {}, "
                  "outside the vocabulary of {}",
                  where, LossyUtf8(text_->tokenizer->TokenBytes(*alien)), *alien, vocabulary_),
      {.file = file_.name}, "Take the tokenizer that came with this checkpoint");
}

absl::StatusOr<Ids> Reader::EncodeConversation(const CalibrationLine& line) const {
  OCTAVO_ASSIGN_OR_RETURN(auto variables, ConversationOfLine(file_, line));
  variables["add_generation_prompt"] = false;
  ManualClock clock;
  clock.Advance(kTemplateDay.time_since_epoch());
  const auto prompt = text_->chat_template->RenderVariables(std::move(variables), clock);
  if (!prompt.ok()) return LineError(file_, line, std::string(prompt.status().message()));
  return Encode(*prompt, {.add_special_tokens = options_.as_text_padded, .parse_special = true},
                &line);
}

absl::StatusOr<Ids> Reader::IdsOf(const CalibrationLine& line) const {
  switch (file_.kind) {
    case CalibrationKind::kText:
      return Encode(line.text, {}, &line);
    case CalibrationKind::kJsonText: {
      OCTAVO_ASSIGN_OR_RETURN(const std::string text, TextOfLine(file_, line));
      if (text.empty()) return Ids();
      return Encode(text, {}, &line);
    }
    case CalibrationKind::kJsonMessages:
      return EncodeConversation(line);
    case CalibrationKind::kJsonIds:
      break;
  }
  return IdsOfLine(file_, line, vocabulary_);
}

absl::StatusOr<std::vector<Ids>> Reader::IdsOfLines(std::span<const CalibrationLine> lines,
                                                    size_t length_max) {
  std::vector<Ids> all(lines.size());
  const auto read = [&](size_t i) -> absl::Status {
    absl::StatusOr<Ids> ids = IdsOf(lines[i]);
    if (!ids.ok()) return ids.status();
    if (ids->empty()) return LineError(file_, lines[i], "no token is in it", "Take it out");
    if (ids->size() > length_max) {
      ids->resize(length_max);
      ids->shrink_to_fit();
    }
    all[i] = *std::move(ids);
    return reporter_.Add(lines[i].text.size() + 1);
  };
  OCTAVO_RETURN_IF_ERROR(RunTasks(lines.size(), options_.threads, read));
  return all;
}

absl::StatusOr<size_t> Reader::EncodeStretches(std::string_view text, bool more_follows,
                                               Ids* stream) {
  std::vector<std::string_view> stretches;
  size_t used = 0;
  while (used < text.size() && stretches.size() < options_.threads) {
    const std::string_view rest = text.substr(used);
    if (more_follows && rest.size() <= kCalibrationStretchBytes) break;
    stretches.push_back(rest.substr(0, StretchSize(rest)));
    used += stretches.back().size();
  }
  std::vector<Ids> all(stretches.size());
  const auto encode = [&](size_t i) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(all[i], Encode(stretches[i], {}, nullptr));
    return reporter_.Add(stretches[i].size());
  };
  OCTAVO_RETURN_IF_ERROR(RunTasks(stretches.size(), options_.threads, encode));
  for (const Ids& ids : all) stream->insert(stream->end(), ids.begin(), ids.end());
  return used;
}

absl::StatusOr<Ids> Reader::StreamOfText(size_t wanted) {
  std::string_view rest = file_.bytes;
  Ids stream;
  while (!rest.empty() && stream.size() < wanted) {
    OCTAVO_ASSIGN_OR_RETURN(const size_t used, EncodeStretches(rest, false, &stream));
    rest.remove_prefix(used);
  }
  return stream;
}

absl::Status Reader::JoinTexts(std::span<const CalibrationLine> lines, bool first,
                               std::string* joined) const {
  std::vector<std::string> texts(lines.size());
  const auto read = [&](size_t i) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(texts[i], TextOfLine(file_, lines[i]));
    return absl::OkStatus();
  };
  OCTAVO_RETURN_IF_ERROR(RunTasks(lines.size(), options_.threads, read));
  for (size_t i = 0; i < texts.size(); ++i) {
    if (!first || i > 0) *joined += kTextJoint;
    *joined += texts[i];
  }
  return absl::OkStatus();
}

absl::StatusOr<Ids> Reader::StreamOfTexts(size_t wanted) {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<CalibrationLine> lines, LinesOf(file_));
  const std::span<const CalibrationLine> all(lines);
  std::string joined;  // what is not tokenized yet of the lines before `next`
  size_t next = 0;
  Ids stream;
  do {
    // A stretch for every thread, and what shows that it does not end there.
    while (next < all.size() && joined.size() <= kCalibrationStretchBytes * options_.threads) {
      const size_t count = std::min(kWaveLinesPerThread * options_.threads, all.size() - next);
      OCTAVO_RETURN_IF_ERROR(JoinTexts(all.subspan(next, count), next == 0, &joined));
      next += count;
    }
    OCTAVO_ASSIGN_OR_RETURN(const size_t used, EncodeStretches(joined, next < all.size(), &stream));
    joined.erase(0, used);
  } while (stream.size() < wanted && !(joined.empty() && next == all.size()));
  return stream;
}

absl::StatusOr<Ids> Reader::StreamOfLines(size_t wanted) {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<CalibrationLine> lines, LinesOf(file_));
  const std::span<const CalibrationLine> all(lines);
  Ids stream;
  for (size_t begin = 0; begin < all.size() && stream.size() < wanted;) {
    const size_t count = std::min(kWaveLinesPerThread * options_.threads, all.size() - begin);
    OCTAVO_ASSIGN_OR_RETURN(const std::vector<Ids> wave,
                            IdsOfLines(all.subspan(begin, count), SIZE_MAX));
    for (const Ids& ids : wave) stream.insert(stream.end(), ids.begin(), ids.end());
    begin += count;
  }
  return stream;
}

absl::StatusOr<Ids> Reader::Stream(size_t wanted) {
  switch (file_.kind) {
    case CalibrationKind::kText:
      return StreamOfText(wanted);
    case CalibrationKind::kJsonText:
      return StreamOfTexts(wanted);
    case CalibrationKind::kJsonMessages:
    case CalibrationKind::kJsonIds:
      break;
  }
  return StreamOfLines(wanted);
}

absl::Status Reader::PadWithEos(std::vector<Ids>* samples) const {
  const std::optional<int32_t> eos = text_->tokenizer->TokenId(text_->eos_text);
  if (!eos) {
    return MakeError(Reason::kUnsupported, "the tokenizer names no EOS to pad samples with",
                     {.file = file_.name}, "Give ids, or leave out the compatibility mode");
  }
  size_t longest = 0;
  for (const Ids& ids : *samples) longest = std::max(longest, ids.size());
  for (Ids& ids : *samples) ids.resize(longest, *eos);
  return absl::OkStatus();
}

// Of `count` samples.
std::vector<size_t> Chosen(size_t count, const CalibrationOptions& options) {
  if (options.seed) return ChooseSamples(count, options.samples, *options.seed);
  std::vector<size_t> first(std::min(count, options.samples));
  std::iota(first.begin(), first.end(), size_t{0});
  return first;
}

void Append(std::span<const int32_t> ids, CalibrationSamples* samples) {
  samples->lengths.push_back(static_cast<uint32_t>(ids.size()));
  samples->ids.insert(samples->ids.end(), ids.begin(), ids.end());
}

absl::StatusOr<CalibrationSamples> PackedSamples(Reader& reader, const CalibrationFile& file,
                                                 const CalibrationOptions& options) {
  const size_t length = options.sample_length;
  const size_t wanted = options.seed ? SIZE_MAX : options.samples * length;
  OCTAVO_ASSIGN_OR_RETURN(const Ids stream, reader.Stream(wanted));
  if (stream.size() < length) {
    return MakeError(
        Reason::kBadData,
        fmt::format("{} tokens, less than one calibration sample of {}", stream.size(), length),
        {.file = file.name}, "Give more text or a smaller sample length");
  }
  CalibrationSamples samples;
  for (const size_t i : Chosen(stream.size() / length, options)) {
    Append(std::span(stream).subspan(i * length, length), &samples);
  }
  return samples;
}

absl::StatusOr<CalibrationSamples> SamplesOfLines(Reader& reader, const CalibrationFile& file,
                                                  const CalibrationOptions& options) {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<CalibrationLine> lines, LinesOf(file));
  std::vector<CalibrationLine> chosen;
  for (const size_t i : Chosen(lines.size(), options)) chosen.push_back(lines[i]);
  OCTAVO_ASSIGN_OR_RETURN(std::vector<Ids> all, reader.IdsOfLines(chosen, options.sample_length));
  if (options.as_text_padded && file.kind != CalibrationKind::kJsonIds) {
    OCTAVO_RETURN_IF_ERROR(reader.PadWithEos(&all));
  }
  CalibrationSamples samples;
  for (const Ids& ids : all) Append(ids, &samples);
  return samples;
}

}  // namespace

absl::StatusOr<CalibrationSamples> CalibrationFromFile(const CalibrationFile& file,
                                                       const TextBundle* text, int64_t vocabulary,
                                                       const CalibrationOptions& options) {
  OCTAVO_RETURN_IF_ERROR(CheckOptions(vocabulary, options));
  OCTAVO_CHECK(text != nullptr || file.kind == CalibrationKind::kJsonIds);
  if (file.kind == CalibrationKind::kJsonMessages && !text->chat_template) {
    return WithContext(text->chat_template_error,
                       fmt::format("{} has {}", file.name, NameOf(file.kind)));
  }
  const bool is_text =
      file.kind == CalibrationKind::kText || file.kind == CalibrationKind::kJsonText;
  const CalibrationPacking packing =
      options.packing.value_or(is_text ? CalibrationPacking::kPack : CalibrationPacking::kEach);
  Reader reader(file, text, vocabulary, options);
  return packing == CalibrationPacking::kPack ? PackedSamples(reader, file, options)
                                              : SamplesOfLines(reader, file, options);
}

absl::StatusOr<CalibrationSamples> RandomCalibration(int64_t vocabulary,
                                                     const CalibrationOptions& options) {
  OCTAVO_RETURN_IF_ERROR(CheckOptions(vocabulary, options));
  const uint64_t seed = options.seed.value_or(0);
  CalibrationSamples samples;
  samples.lengths.assign(options.samples, static_cast<uint32_t>(options.sample_length));
  samples.ids.reserve(options.samples * options.sample_length);
  for (uint64_t sample = 0; sample < options.samples; ++sample) {
    for (uint64_t token = 0; token < options.sample_length; ++token) {
      samples.ids.push_back(static_cast<int32_t>(UniformBelow(
          static_cast<uint64_t>(vocabulary), seed, sample << 32 | token, kRandomStream)));
    }
  }
  return samples;
}

std::vector<size_t> ChooseSamples(size_t count, size_t wanted, uint64_t seed) {
  // A shuffle of 0..count-1 that is carried out only as far as it is looked at.
  absl::flat_hash_map<size_t, size_t> moved;
  const auto at = [&](size_t place) {
    const auto found = moved.find(place);
    return found == moved.end() ? place : found->second;
  };
  std::vector<size_t> chosen;
  for (size_t i = 0; i < std::min(count, wanted); ++i) {
    const size_t from = i + UniformBelow(count - i, seed, i, kChoiceStream);
    const size_t drawn = at(from);
    moved[from] = at(i);
    chosen.push_back(drawn);
  }
  std::ranges::sort(chosen);
  return chosen;
}

}  // namespace octavo
