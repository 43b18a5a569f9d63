// What the oracle scripts drive: one JSON value a line in, one out, an {"error": ...} where the
// library gives an error. TOKENIZER is a tokenizer.json or a *.model.
//
//   encode TOKENIZER [no-added] [no-special]   "text"                          -> [ids]
//   decode TOKENIZER [skip-special]            [ids]            -> {"text": ..., "pieces": []}
//   time TOKENIZER FILE             nothing in; milliseconds of CPU time, count of ids -> [ms, n]
//   render                          {"template": "...", "variables": {}, "now_ns": n} -> "text"
//                                   (without "template", that of the line before)
//   calibrate FOLDER FILE {"vocabulary": n, "samples": n, "sample_length": n, "seed": n or null,
//                          "packing": "pack", "each" or null, "as_text_padded": bool or absent}
//                                   nothing in; [[ids], ...], or an {"error": ..., "reason": ...}

#include <algorithm>
#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>

#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/calibration_text.h"
#include "core/text/chat_template.h"
#include "core/text/detokenizer.h"
#include "core/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

using Json = nlohmann::json;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::cerr << "error: cannot read " << path << "\n";
    std::exit(66);
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

Json ErrorJson(const absl::Status& status) { return {{"error", std::string(status.message())}}; }

template <typename Answer>
int ForEachLine(Answer answer) {
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << answer(Json::parse(line)).dump() << "\n";
  }
  return 0;
}

int Encode(const Tokenizer& tokenizer, EncodeOptions options) {
  return ForEachLine([&](const Json& text) -> Json {
    const auto ids = tokenizer.Encode(text.get<std::string>(), options);
    return ids.ok() ? Json(*ids) : ErrorJson(ids.status());
  });
}

int Decode(const Tokenizer& tokenizer, bool skip_special) {
  return ForEachLine([&](const Json& line) -> Json {
    const auto ids = line.get<std::vector<int32_t>>();
    Detokenizer detokenizer(&tokenizer, skip_special);
    Json pieces = Json::array();
    for (const int32_t id : ids) pieces.push_back(detokenizer.Push(id));
    pieces.push_back(detokenizer.Finish());
    return {{"text", tokenizer.Decode(ids, skip_special)}, {"pieces", pieces}};
  });
}

int Fail(const absl::Status& status) {
  std::cerr << "error: " << std::string(status.message()) << "\n";
  return 65;
}

// CPU time of the fastest of three rounds, or of as many as fit kTimeMs: others may be running on
// this machine, and what is short is disturbed more.
constexpr double kTimeMs = 300;

int Time(const Tokenizer& tokenizer, const std::string& text) {
  double best_ms = 0;
  double all_ms = 0;
  size_t ids = 0;
  for (int round = 0; round < 3 || all_ms < kTimeMs; ++round) {
    const std::clock_t begin = std::clock();
    const auto encoded = tokenizer.Encode(text, {});
    if (!encoded.ok()) return Fail(encoded.status());
    const double ms = 1e3 * static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    if (round == 0 || ms < best_ms) best_ms = ms;
    all_ms += std::max(ms, 1e-3);
    ids = encoded->size();
  }
  std::cout << Json({best_ms, ids}).dump() << "\n";
  return 0;
}

Json ToolError(const absl::Status& status) {
  return {{"error", std::string(status.message())},
          {"reason", std::string(InfoOf(ReasonOf(status)).name)}};
}

int Render() {
  absl::StatusOr<ChatTemplate> chat_template = ChatTemplate::FromText("", {});
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    const auto job = nlohmann::ordered_json::parse(line);
    if (job.contains("template")) {
      chat_template = ChatTemplate::FromText(job["template"].get<std::string>(), {});
    }
    ManualClock clock;
    clock.Advance(Clock::Nanos(job["now_ns"].get<int64_t>()));
    const auto text = chat_template.ok() ? chat_template->RenderVariables(job["variables"], clock)
                                         : absl::StatusOr<std::string>(chat_template.status());
    std::cout << (text.ok() ? Json(*text) : ToolError(text.status())).dump() << "\n";
  }
  return 0;
}

absl::StatusOr<CalibrationSamples> Calibrate(const std::string& folder, const std::string& path,
                                             const Json& settings) {
  const auto part = [&](const char* name) {
    const std::string file = folder + "/" + name;
    return std::ifstream(file).good() ? ReadFile(file) : std::string();
  };
  const std::string tokenizer = part("tokenizer.json"), config = part("tokenizer_config.json"),
                    chat = part("chat_template.jinja");
  OCTAVO_ASSIGN_OR_RETURN(const TextBundle text, LoadTextBundle({.tokenizer_json = tokenizer,
                                                                 .tokenizer_config_json = config,
                                                                 .chat_template_jinja = chat}));
  CalibrationOptions options{.samples = settings["samples"].get<size_t>(),
                             .sample_length = settings["sample_length"].get<size_t>(),
                             .threads = 2};
  if (settings["seed"].is_number()) options.seed = settings["seed"].get<uint64_t>();
  if (settings["packing"] == "pack") options.packing = CalibrationPacking::kPack;
  if (settings["packing"] == "each") options.packing = CalibrationPacking::kEach;
  options.as_text_padded = settings.value("as_text_padded", false);
  const std::string bytes = ReadFile(path);
  OCTAVO_ASSIGN_OR_RETURN(const CalibrationFile file, OpenCalibrationFile(bytes, path));
  return CalibrationFromFile(file, &text, settings["vocabulary"].get<int64_t>(), options);
}

int PrintCalibration(const std::string& folder, const std::string& path, const Json& settings) {
  const auto samples = Calibrate(folder, path, settings);
  if (!samples.ok()) {
    std::cout << ToolError(samples.status()).dump() << "\n";
    return 0;
  }
  Json all = Json::array();
  auto begin = samples->ids.begin();
  for (const uint32_t length : samples->lengths) {
    all.push_back(std::vector<int32_t>(begin, begin + length));
    begin += length;
  }
  std::cout << all.dump() << "\n";
  return 0;
}

int Run(const std::vector<std::string>& args) {
  auto has = [&](std::string_view flag) {
    return std::find(args.begin(), args.end(), flag) != args.end();
  };
  if (args.size() == 1 && args[0] == "render") return Render();
  if (args.size() == 4 && args[0] == "calibrate") {
    return PrintCalibration(args[1], args[2], Json::parse(args[3]));
  }
  if (args.size() < 2 || (args[0] != "encode" && args[0] != "decode" && args[0] != "time")) {
    std::cerr << "usage: text_tool encode|decode|time|render|calibrate ...\n";
    return 64;
  }
  const std::string bytes = ReadFile(args[1]);
  const auto tokenizer =
      args[1].ends_with(".model") ? LoadSentencePieceTokenizer(bytes) : LoadTokenizer(bytes);
  if (!tokenizer.ok()) return Fail(tokenizer.status());
  if (args[0] == "time" && args.size() == 3) return Time(**tokenizer, ReadFile(args[2]));
  if (args[0] == "decode") return Decode(**tokenizer, has("skip-special"));
  return Encode(**tokenizer,
                {.add_special_tokens = !has("no-added"), .parse_special = !has("no-special")});
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  return octavo::Run(std::vector<std::string>(argv + 1, argv + argc));
}
