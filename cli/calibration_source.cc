#include "cli/calibration_source.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <thread>
#include <utility>

#include "CLI/CLI.hpp"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/summary.h"
#include "core/scheme/compat.h"
#include "core/store/local_store.h"
#include "core/text/calibration_text.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr std::string_view kRandom = "random";
constexpr size_t kThreadsMax = 16;

// "tokenizing: 12 MiB of 40 MiB" for what takes longer than a moment.
class TokenizingDisplay {
 public:
  TokenizingDisplay() : terminal_(isatty(fileno(stderr)) == 1) {}
  ~TokenizingDisplay() {
    if (terminal_ && shown_) fmt::print(stderr, "\r\x1b[K");
  }
  TokenizingDisplay(const TokenizingDisplay&) = delete;
  TokenizingDisplay& operator=(const TokenizingDisplay&) = delete;

  void Show(uint64_t done, uint64_t total) {
    const SteadyClock::time_point now = SteadyClock::now();
    if (now < next_) return;
    next_ = now + (terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(2));
    fmt::print(stderr, "{}tokenizing: {} of {}{}", terminal_ ? "\r" : "", HumanBytes(done),
               HumanBytes(total), terminal_ ? "\x1b[K" : "\n");
    std::fflush(stderr);
    shown_ = true;
  }

 private:
  const bool terminal_;
  bool shown_ = false;
  SteadyClock::time_point next_ = SteadyClock::now() + std::chrono::seconds(1);
};

// The files of a checkpoint that say how text becomes ids.
struct TextFolder {
  std::string tokenizer_json;
  std::string tokenizer_model;
  std::string tokenizer_config;
  std::string chat_template;
  std::string generation_config;
  std::string config;
};

absl::StatusOr<TextFolder> ReadTextFolder(const std::string& dir) {
  const LocalStore store;
  TextFolder folder;
  const std::array<std::tuple<const char*, std::string*, uint64_t>, 6> files = {
      {{"tokenizer.json", &folder.tokenizer_json, kTokenizerFileMax},
       {"tokenizer.model", &folder.tokenizer_model, kTokenizerFileMax},
       {"tokenizer_config.json", &folder.tokenizer_config, kConfigFileMax},
       {"chat_template.jinja", &folder.chat_template, kConfigFileMax},
       {"generation_config.json", &folder.generation_config, kConfigFileMax},
       {"config.json", &folder.config, kConfigFileMax}}};
  for (const auto& [name, content, bytes_max] : files) {
    const std::string path = JoinPath(dir, name);
    if (content != &folder.config && !store.Exists(path)) continue;
    OCTAVO_ASSIGN_OR_RETURN(*content, ReadWhole(store, path, bytes_max));
  }
  return folder;
}

absl::StatusOr<TextBundle> LoadText(const TextFolder& folder, const std::string& dir) {
  if (folder.tokenizer_json.empty() && folder.tokenizer_model.empty()) {
    return MakeError(Reason::kInputMissing, "neither tokenizer.json nor tokenizer.model is there",
                     {.file = dir}, "Put the tokenizer beside the weights, or pass ids");
  }
  return LoadTextBundle({.tokenizer_json = folder.tokenizer_json,
                         .tokenizer_model = folder.tokenizer_model,
                         .tokenizer_config_json = folder.tokenizer_config,
                         .chat_template_jinja = folder.chat_template,
                         .generation_config_json = folder.generation_config,
                         .config_json = folder.config});
}

absl::Status CheckFlags(const v1::Recipe& recipe, const CalibrationFlags& flags) {
  if (recipe.has_calibration() && flags.input.empty()) {
    return MakeError(Reason::kUsage,
                     fmt::format("recipe {} has to see activations, and --calibration is missing",
                                 recipe.name()),
                     {},
                     "Pass --calibration FILE (text, or JSON lines with text, messages or ids) or "
                     "--calibration random");
  }
  const std::array<std::pair<const char*, bool>, 5> given = {
      {{"--calibration", !flags.input.empty()},
       {"--samples", flags.samples.has_value()},
       {"--sample-length", flags.sample_length.has_value()},
       {"--seed", flags.seed.has_value()},
       {"--packing", !flags.packing.empty()}}};
  for (const auto& [name, is_given] : given) {
    if (is_given && !recipe.has_calibration()) {
      return MakeError(
          Reason::kUsage,
          fmt::format("{} is given, and recipe {} needs no calibration", name, recipe.name()), {},
          "Leave it out, or choose a recipe that is calibrated");
    }
  }
  if (flags.input == kRandom && !flags.packing.empty()) {
    return MakeError(Reason::kUsage, "--packing is given, and random ids are not packed", {},
                     "Leave it out");
  }
  return absl::OkStatus();
}

absl::StatusOr<CalibrationOptions> OptionsOf(const v1::Calibration& recipe,
                                             const CalibrationFlags& flags, int64_t max_position) {
  if (flags.sample_length && *flags.sample_length > max_position) {
    return MakeError(Reason::kUsage,
                     fmt::format("--sample-length {} is more than the {} positions of the model",
                                 *flags.sample_length, max_position));
  }
  CalibrationOptions options;
  options.samples = flags.samples.value_or(recipe.samples());
  options.sample_length = flags.sample_length.value_or(
      static_cast<uint32_t>(std::min<int64_t>(recipe.sample_length(), max_position)));
  options.seed = flags.seed;
  if (flags.packing == "pack") options.packing = CalibrationPacking::kPack;
  if (flags.packing == "each") options.packing = CalibrationPacking::kEach;
  options.threads = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, kThreadsMax);
  return options;
}

absl::StatusOr<CalibrationSamples> SamplesOfFile(const std::string& path, const TextFolder& folder,
                                                 const std::string& source_dir, int64_t vocabulary,
                                                 CalibrationOptions options,
                                                 const std::stop_token& stop) {
  const LocalStore store;
  OCTAVO_ASSIGN_OR_RETURN(const FileFacts facts, store.Stat(path));
  if (facts.size > kCalibrationFileBytesMax) {
    return MakeError(Reason::kBadData,
                     fmt::format("{}, calibration reads at most {}", HumanBytes(facts.size),
                                 HumanBytes(kCalibrationFileBytesMax)),
                     {.file = path}, "Cut the file");
  }
  OCTAVO_ASSIGN_OR_RETURN(const std::string bytes, ReadWhole(store, path, facts.size));
  OCTAVO_ASSIGN_OR_RETURN(const CalibrationFile file, OpenCalibrationFile(bytes, path));
  TextBundle text;
  if (file.kind != CalibrationKind::kJsonIds) {
    OCTAVO_ASSIGN_OR_RETURN(text, LoadText(folder, source_dir));
  }
  TokenizingDisplay display;
  options.progress = [&](uint64_t done, uint64_t total) {
    display.Show(done, total);
    return !stop.stop_requested();
  };
  return CalibrationFromFile(file, &text, vocabulary, options);
}

v1::CalibrationSet SetOf(const CalibrationSamples& samples) {
  v1::CalibrationSet set;
  set.mutable_sample_lengths()->Add(samples.lengths.begin(), samples.lengths.end());
  std::string& bytes = *set.mutable_ids();
  bytes.reserve(samples.ids.size() * sizeof(int32_t));
  for (const int32_t id : samples.ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes += static_cast<char>(static_cast<uint32_t>(id) >> shift & 0xff);
    }
  }
  const Digest128 digest = DigestOf(bytes);
  set.mutable_digest()->set_low(digest.low);
  set.mutable_digest()->set_high(digest.high);
  return set;
}

}  // namespace

void AddCalibrationFlags(CLI::App& command, CalibrationFlags& flags) {
  command.add_option("--calibration", flags.input,
                     "What static scales are found with: a file of text, of JSON lines with text, "
                     "messages or ids, or 'random'");
  command.add_option("--samples", flags.samples, "Samples at most (default: the recipe's)")
      ->check(CLI::Range(1u, static_cast<unsigned>(kCalibrationSamplesMax)));
  command
      .add_option("--sample-length", flags.sample_length,
                  "Tokens of a sample (default: the recipe's)")
      ->check(CLI::Range(1u, static_cast<unsigned>(kCalibrationTokensMax)));
  command.add_option("--seed", flags.seed,
                     "Choose samples from the whole file by this seed, not the first ones; or that "
                     "of random ids (0)");
  command
      .add_option("--packing", flags.packing,
                  "pack: join all and cut into samples (text); each: a line is a sample "
                  "(messages, ids)")
      ->check(CLI::IsMember({"pack", "each"}));
}

absl::StatusOr<std::optional<v1::CalibrationSet>> LoadCalibration(const v1::Recipe& recipe,
                                                                  const std::string& source_dir,
                                                                  const CalibrationFlags& flags,
                                                                  std::stop_token stop) {
  OCTAVO_RETURN_IF_ERROR(CheckFlags(recipe, flags));
  if (!recipe.has_calibration()) return std::nullopt;
  OCTAVO_ASSIGN_OR_RETURN(const TextFolder folder, ReadTextFolder(source_dir));
  OCTAVO_ASSIGN_OR_RETURN(const v1::ModelSpec model,
                          ParseConfig(folder.config, folder.generation_config));
  OCTAVO_ASSIGN_OR_RETURN(CalibrationOptions options,
                          OptionsOf(recipe.calibration(), flags, model.max_position()));
  options.as_text_padded = CompatModeOf(recipe.compat()).chats_as_text;
  const absl::StatusOr<CalibrationSamples> samples =
      flags.input == kRandom
          ? RandomCalibration(model.vocab_size(), options)
          : SamplesOfFile(flags.input, folder, source_dir, model.vocab_size(), options, stop);
  if (!samples.ok()) return samples.status();
  if (samples->lengths.size() < options.samples) {
    fmt::print(stderr, "warning: {} holds {} samples to calibrate with, {} were asked for\n",
               flags.input, samples->lengths.size(), options.samples);
  }
  return SetOf(*samples);
}

}  // namespace octavo
