// octavo doctor DIR: would it load, here, in vLLM and in transformers, tensor by tensor.

#include <map>
#include <memory>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "cli/folder_check.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/summary.h"
#include "core/doctor/diagnosis.h"
#include "core/store/local_store.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

// Of one kind of finding, so many are printed; --json has all.
constexpr uint64_t kPrintedMax = 5;

struct DoctorFlags {
  std::string dir;
  std::string reader = "octavo";
  bool quick = false;
  bool json = false;
};

std::string PlaceOf(const Finding& finding) {
  std::string place;
  for (const std::string* part : {&finding.tensor, &finding.key, &finding.file}) {
    if (part->empty()) continue;
    place += fmt::format("{}{}", place.empty() ? "" : ", ", *part);
  }
  return place;
}

// "octavo refused, vllm loads-wrong (not seen), transformers loads".
std::string ClaimsText(const Rule& rule) {
  std::string text;
  for (const Reader reader : kReaders) {
    const Claim& claim = rule.claims[static_cast<size_t>(reader)];
    const bool known = claim.verdict == Verdict::kUnknown || claim.basis == Basis::kSeen;
    text += fmt::format("{}{} {}{}", text.empty() ? "" : ", ", Name(reader), Name(claim.verdict),
                        known ? "" : " (not seen)");
  }
  return text;
}

void PrintFindings(const Diagnosis& diagnosis) {
  std::map<Symptom, uint64_t> counts;
  for (const Finding& finding : diagnosis.findings) ++counts[finding.symptom];
  std::map<Symptom, uint64_t> printed;
  for (const Finding& finding : diagnosis.findings) {
    const Rule& rule = RuleOf(finding.symptom);
    const uint64_t number = ++printed[finding.symptom];
    if (number > kPrintedMax) continue;
    if (number == 1) {
      fmt::print("\n{}: {}\n", rule.code, ClaimsText(rule));
      if (!rule.cure.empty()) fmt::print("  cure: {}\n", rule.cure);
    }
    fmt::print("  {}: {}\n", PlaceOf(finding), finding.what);
    if (number == kPrintedMax && counts[finding.symptom] > kPrintedMax) {
      fmt::print("  and {} more (--json names them)\n", counts[finding.symptom] - kPrintedMax);
    }
  }
}

void PrintText(const Folder& folder, const Diagnosis& diagnosis) {
  fmt::print("{}: {}, dialect {}\n", folder.dir,
             folder.model.ok() ? folder.model->architecture() : "a model that is not known",
             diagnosis.dialect);
  for (const Reader reader : kReaders) {
    fmt::print("  {:<14}{}\n", Name(reader), Name(diagnosis.Of(reader)));
  }
  PrintFindings(diagnosis);
  if (diagnosis.loader_knows_more) {
    fmt::print("\noctavo refuses it: {}\n", std::string(folder.loader.message()));
  }
}

nlohmann::ordered_json FindingJson(const Finding& finding) {
  const Rule& rule = RuleOf(finding.symptom);
  nlohmann::ordered_json json = {{"code", rule.code},    {"what", finding.what},
                                 {"file", finding.file}, {"tensor", finding.tensor},
                                 {"key", finding.key},   {"cure", rule.cure}};
  for (const Reader reader : kReaders) {
    const Claim& claim = rule.claims[static_cast<size_t>(reader)];
    json["readers"][std::string(Name(reader))] = {{"verdict", Name(claim.verdict)},
                                                  {"basis", Name(claim.basis)}};
  }
  return json;
}

void PrintJson(const Folder& folder, const Diagnosis& diagnosis,
               const absl::StatusOr<FolderCheck>& check) {
  nlohmann::ordered_json json = {{"dir", folder.dir}, {"dialect", diagnosis.dialect}};
  for (const Reader reader : kReaders) {
    json["verdicts"][std::string(Name(reader))] = Name(diagnosis.Of(reader));
  }
  json["findings"] = nlohmann::ordered_json::array();
  for (const Finding& finding : diagnosis.findings) {
    json["findings"].push_back(FindingJson(finding));
  }
  if (!folder.loader.ok()) json["octavo_error"] = std::string(folder.loader.message());
  if (!check.ok()) {
    json["manifest"] = {{"error", std::string(check.status().message())}};
  } else if (check->manifest) {
    json["manifest"] = {{"files", check->files}, {"bytes", check->bytes}};
  } else {
    json["manifest"] = nullptr;
  }
  fmt::print("{}\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

void PrintManifest(const FolderCheck& check, bool quick) {
  if (check.manifest) {
    fmt::print("\nmanifest: {} files, {} {}\n", check.files, HumanBytes(check.bytes),
               quick ? "of the right size" : "equal their digests");
  } else {
    fmt::print("\nmanifest: none (not made by octavo quantize)\n");
  }
}

// OK where the reader that was asked about loads the folder.
absl::Status Outcome(const DoctorFlags& flags, const Folder& folder, const Diagnosis& diagnosis) {
  for (const Reader reader : kReaders) {
    if (flags.reader != Name(reader)) continue;
    const Verdict verdict = diagnosis.Of(reader);
    if (verdict == Verdict::kLoads) return absl::OkStatus();
    if (reader == Reader::kOctavo && !folder.loader.ok()) return folder.loader;
    return MakeError(Reason::kBadCheckpoint, fmt::format("{}: {}", flags.reader, Name(verdict)),
                     {.file = flags.dir}, "The findings name reasons and cures");
  }
  return MakeError(Reason::kUsage, fmt::format("no reader '{}'", flags.reader));
}

absl::Status Doctor(const DoctorFlags& flags) {
  const LocalStore store;
  OCTAVO_ASSIGN_OR_RETURN(
      const Folder folder,
      ReadFolder(store, flags.dir, flags.quick ? Depth::kHeaders : Depth::kValues));
  const Diagnosis diagnosis = Diagnose(folder);
  const absl::StatusOr<FolderCheck> check = CheckFolder(flags.dir, !flags.quick);
  if (flags.json) {
    PrintJson(folder, diagnosis, check);
  } else {
    PrintText(folder, diagnosis);
    if (check.ok()) PrintManifest(*check, flags.quick);
  }
  OCTAVO_RETURN_IF_ERROR(Outcome(flags, folder, diagnosis));
  return check.status();
}

}  // namespace

void AddDoctor(CLI::App& app, Context& context) {
  auto flags = std::make_shared<DoctorFlags>();
  CLI::App* command = app.add_subcommand(
      "doctor", "Would a checkpoint load, here, in vLLM and in transformers, tensor by tensor");
  command->add_option("DIR", flags->dir, "A checkpoint folder")->required();
  command->add_flag("--quick", flags->quick,
                    "Read headers and scales, no weights; compare sizes with the manifest");
  command->add_flag("--json", flags->json, "One JSON object");
  command->add_option("--for", flags->reader, "Whose verdict the exit code is")
      ->check(CLI::IsMember({"octavo", "vllm", "transformers"}))
      ->capture_default_str();
  command->callback([&context, flags] { context.action = [flags] { return Doctor(*flags); }; });
}

}  // namespace octavo
