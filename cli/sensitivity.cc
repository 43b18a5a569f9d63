// octavo sensitivity SRC --calibration F: what hurts most when it is quantized, and a recipe for a
// budget.

#include "coordinator/report/sensitivity.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "CLI/CLI.hpp"
#include "cli/calibration_source.h"
#include "cli/context.h"
#include "cli/job_client.h"
#include "cli/job_folder.h"
#include "cli/quantity.h"
#include "cli/recipe_source.h"
#include "cli/run_job.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "coordinator/planner/publish.h"
#include "coordinator/planner/quantize_plan.h"
#include "coordinator/report/report.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/summary.h"
#include "core/scheme/mixed_recipe.h"
#include "core/scheme/recipe.h"
#include "core/store/local_store.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kSamplesDefault = 16;
constexpr uint32_t kSampleLengthDefault = 512;
constexpr uint64_t kResultBytesMax = 256u << 20;

struct SensitivityFlags {
  std::string source;
  std::string recipe = "fp8-dynamic";
  CalibrationFlags calibration;
  ClusterFlags cluster;
  std::optional<double> budget_error;
  std::string budget_bytes;
  std::string out;
  std::string work;
  int top = 20;
  bool overwrite = false;
  bool json = false;
};

// The recipe for a budget, and what it comes to.
struct Mix {
  v1::Recipe recipe;
  std::vector<const SensitivityGroup*> kept;
  double error_left = 0;
  uint64_t output_bytes = 0;
  uint64_t quantized_bytes = 0;  // with nothing kept
};

std::string AbsoluteFolder(const std::string& path) {
  std::string text = fs::absolute(path).lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

absl::Status CheckBudgetFlags(const SensitivityFlags& flags) {
  if (flags.budget_error && !flags.budget_bytes.empty()) {
    return MakeError(Reason::kUsage, "--budget-error and --budget-bytes are both given", {},
                     "Give one");
  }
  const bool budget = flags.budget_error || !flags.budget_bytes.empty();
  if (!flags.out.empty() && !budget) {
    return MakeError(Reason::kUsage, "--out is given, and no budget to make a recipe for", {},
                     "Pass --budget-error or --budget-bytes");
  }
  if (!flags.cluster.coordinator.empty() && flags.work.empty()) {
    return MakeError(Reason::kUsage, "--coordinator is given, and no --work", {},
                     "Name a folder that all workers see; what is measured is kept there");
  }
  return absl::OkStatus();
}

// How samples are taken where nothing else is said: a few thousand tokens rank layers well.
v1::Calibration MeasureOf(const v1::Recipe& recipe, const CalibrationFlags& flags) {
  v1::Calibration measure;
  measure.set_observer(v1::OBSERVER_ABSMAX);
  measure.set_samples(flags.samples.value_or(kSamplesDefault));
  measure.set_sample_length(flags.sample_length.value_or(kSampleLengthDefault));
  measure.set_expert_quota(recipe.has_calibration() ? recipe.calibration().expert_quota()
                                                    : kExpertQuotaUnnamed);
  measure.set_propagates_source(true);
  return measure;
}

// The folder of a measurement that nobody named: the same command finds it again.
std::string WorkFolder(const Context& context, const v1::QuantizeRequest& request) {
  std::string text = request.source_dir() + "\n" + RecipeYaml(request.recipe()) + "\n" +
                     request.measure().SerializeAsString() +
                     request.calibration().digest().SerializeAsString();
  return fmt::format("{}/sensitivity/{}", context.places.state_dir,
                     DigestOf(text).Hex().substr(0, 16));
}

absl::StatusOr<v1::QuantizeRequest> RequestOf(const Context& context, const SensitivityFlags& flags,
                                              const StopSignal& stop) {
  v1::QuantizeRequest request;
  request.set_source_dir(AbsoluteFolder(flags.source));
  request.set_overwrite(flags.overwrite);
  OCTAVO_ASSIGN_OR_RETURN(*request.mutable_recipe(), LoadRecipe(flags.recipe));
  if (flags.cluster.coordinator.empty() && !fs::is_directory(request.source_dir())) {
    return MakeError(Reason::kInputMissing, "the source is not a folder",
                     {.file = request.source_dir()}, "Give a checkpoint folder");
  }
  *request.mutable_measure() = MeasureOf(request.recipe(), flags.calibration);
  v1::Recipe seeing = request.recipe();  // one that has to see activations
  *seeing.mutable_calibration() = request.measure();
  OCTAVO_ASSIGN_OR_RETURN(auto calibration, LoadCalibration(seeing, request.source_dir(),
                                                            flags.calibration, stop.token()));
  *request.mutable_calibration() = *std::move(calibration);
  request.set_output_dir(flags.work.empty() ? WorkFolder(context, request)
                                            : AbsoluteFolder(flags.work));
  return request;
}

// Measures, or finds that it was measured before. The folder holds kSensitivityName then.
absl::Status RunMeasurement(const Context& context, const SensitivityFlags& flags,
                            const StopSignal& stop, const v1::SubmitJobRequest& request) {
  const v1::QuantizeRequest& asked = request.quantize();
  std::unique_ptr<JobFolder> folder;  // outlives the cluster that works in it
  std::unique_ptr<Session> session;
  if (!flags.cluster.coordinator.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(session, Session::Remote(context, flags.cluster));
  } else {
    OCTAVO_RETURN_IF_ERROR(
        LocalStore().CreateDirectories(fs::path(asked.output_dir()).parent_path().native()));
    OCTAVO_RETURN_IF_ERROR(CheckPlaces(asked.source_dir(), asked.output_dir()));
    OCTAVO_ASSIGN_OR_RETURN(folder, JobFolder::Open(asked.output_dir()));
    OCTAVO_ASSIGN_OR_RETURN(session, folder->StartCluster(context, flags.cluster, stop));
  }
  const absl::StatusOr<v1::Job> job = RunJob(*session, stop, request);
  session->Stop();
  if (stop.requested() && (!job.ok() || job->state() != v1::JOB_DONE)) {
    return MakeError(Reason::kCancelled, "interrupted before all was measured", {},
                     "Run the same command again to resume");
  }
  if (!job.ok()) return job.status();
  return OutcomeOf(*job);
}

// What is kept or quantized together, as far as readers of the dialect allow a choice.
struct Choices {
  std::vector<KeepChoice> choices;
  std::vector<std::vector<const SensitivityGroup*>> groups;  // by choice
};

Choices ChoicesOf(const Sensitivity& sensitivity) {
  Choices all;
  std::map<int32_t, size_t> experts;  // choice by layer
  for (const SensitivityGroup& group : sensitivity.groups) {
    size_t at = all.choices.size();
    if (!group.tensors.empty() && group.tensors.front().expert >= 0) {
      at = experts.try_emplace(group.layer, at).first->second;
    }
    if (at == all.choices.size()) {
      all.choices.emplace_back();
      all.groups.emplace_back();
    }
    KeepChoice& choice = all.choices[at];
    choice.error += group.errors.both;
    choice.bytes += group.source_bytes - std::min(group.source_bytes, group.quantized_bytes);
    for (const SensitivityTensor& tensor : group.tensors) choice.tensors.push_back(tensor.name);
    all.groups[at].push_back(&group);
  }
  return all;
}

absl::StatusOr<Mix> MixOf(const Choices& choices, const std::vector<bool>& keep,
                          const Checkpoint& checkpoint, const v1::QuantizeRequest& asked) {
  Mix mix;
  std::set<std::string> kept;
  for (size_t i = 0; i < keep.size(); ++i) {
    const KeepChoice& choice = choices.choices[i];
    if (!keep[i]) {
      mix.error_left += choice.error;
      continue;
    }
    kept.insert(choice.tensors.begin(), choice.tensors.end());
    mix.kept.insert(mix.kept.end(), choices.groups[i].begin(), choices.groups[i].end());
  }
  OCTAVO_ASSIGN_OR_RETURN(mix.recipe, KeepInRecipe(asked.recipe(), checkpoint.tensors, kept));
  mix.recipe.set_name(asked.recipe().name() + "-mixed");
  OCTAVO_ASSIGN_OR_RETURN(const v1::Plan plan,
                          BuildPlan(checkpoint, mix.recipe, asked.calibration()));
  mix.output_bytes = plan.output_bytes();
  return mix;
}

absl::StatusOr<Mix> MixForBytes(const Choices& choices, uint64_t budget, uint64_t least,
                                const Checkpoint& checkpoint, const v1::QuantizeRequest& asked) {
  if (budget < least) {
    return MakeError(Reason::kUsage,
                     fmt::format("--budget-bytes is {}, and the output has {} bytes where all is "
                                 "quantized that recipe {} quantizes",
                                 budget, least, asked.recipe().name()));
  }
  // What headers and lists of kept layers take is only known when it is laid out.
  uint64_t spare = budget - least;
  while (true) {
    OCTAVO_ASSIGN_OR_RETURN(
        Mix mix, MixOf(choices, KeepForBytes(choices.choices, spare), checkpoint, asked));
    if (mix.output_bytes <= budget || spare == 0) return mix;
    spare -= std::min(spare, mix.output_bytes - budget);
  }
}

absl::StatusOr<std::optional<Mix>> MixOf(const SensitivityFlags& flags,
                                         const Sensitivity& sensitivity,
                                         const v1::QuantizeRequest& asked) {
  if (!flags.budget_error && flags.budget_bytes.empty()) return std::nullopt;
  OCTAVO_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                          OpenCheckpoint(LocalStore(), asked.source_dir(), Accept::kPlainOnly));
  OCTAVO_ASSIGN_OR_RETURN(const v1::Plan all,
                          BuildPlan(checkpoint, asked.recipe(), asked.calibration()));
  const Choices choices = ChoicesOf(sensitivity);
  Mix mix;
  if (flags.budget_error) {
    const double budget = *flags.budget_error * sensitivity.whole;
    OCTAVO_ASSIGN_OR_RETURN(
        mix, MixOf(choices, KeepForError(choices.choices, budget), checkpoint, asked));
    mix.recipe.set_description(
        fmt::format("{}, {} of its error", asked.recipe().name(), *flags.budget_error));
  } else {
    OCTAVO_ASSIGN_OR_RETURN(const uint64_t budget,
                            ParseBytes(flags.budget_bytes, "--budget-bytes"));
    OCTAVO_ASSIGN_OR_RETURN(mix,
                            MixForBytes(choices, budget, all.output_bytes(), checkpoint, asked));
    mix.recipe.set_description(fmt::format("{}, at most {} bytes", asked.recipe().name(), budget));
  }
  mix.quantized_bytes = all.output_bytes();
  if (!flags.out.empty()) {
    LocalStore store;
    OCTAVO_RETURN_IF_ERROR(WriteWhole(store, flags.out, RecipeYaml(mix.recipe) + "\n"));
  }
  return mix;
}

double ShareOf(double error, double whole) { return whole > 0 ? error / whole : 0; }

// "q_proj k_proj v_proj"; of experts' tensors each name once.
std::string NamesOf(const SensitivityGroup& group) {
  std::vector<std::string> names;
  for (const SensitivityTensor& tensor : group.tensors) {
    const std::string_view module = ModuleName(tensor.name);
    std::string last(module.substr(module.rfind('.') + 1));
    if (std::find(names.begin(), names.end(), last) == names.end()) {
      names.push_back(std::move(last));
    }
  }
  return fmt::format(
      "{}{}", fmt::join(names, " "),
      !group.tensors.empty() && group.tensors.front().expert >= 0 ? " (experts)" : "");
}

void PrintSensitivity(const SensitivityFlags& flags, const v1::QuantizeRequest& asked,
                      const Sensitivity& sensitivity, const std::optional<Mix>& mix) {
  fmt::print("{} under {}: squared error of outputs over squared outputs, {} tokens\n",
             asked.source_dir(), asked.recipe().name(), sensitivity.tokens);
  fmt::print("{:>5}  {:<32} {:>9} {:>9} {:>9} {:>7} {:>11}\n", "layer", "weights", "error",
             "weights'", "inputs'", "share", "saved");
  const auto shown =
      std::min(sensitivity.groups.size(), static_cast<size_t>(std::max(flags.top, 0)));
  for (size_t i = 0; i < shown; ++i) {
    const SensitivityGroup& group = sensitivity.groups[i];
    fmt::print(
        "{:>5}  {:<32} {:>9.2e} {:>9.2e} {:>9} {:>6.2f}% {:>11}\n", group.layer, NamesOf(group),
        group.errors.both, group.errors.weights,
        group.inputs_measured ? fmt::format("{:.2e}", group.errors.inputs) : "-", 100 * group.share,
        HumanBytes(group.source_bytes - std::min(group.source_bytes, group.quantized_bytes)));
  }
  if (shown < sensitivity.groups.size()) {
    fmt::print("... and {} more (--top)\n", sensitivity.groups.size() - shown);
  }
  fmt::print("all of it: {}/{}\n", asked.output_dir(), kSensitivityName);
  if (!mix) return;
  fmt::print(
      "kept: {} of {} groups; error left {:.1f}% of the whole; output {} (nothing kept: {})\n",
      mix->kept.size(), sensitivity.groups.size(),
      100 * ShareOf(mix->error_left, sensitivity.whole), HumanBytes(mix->output_bytes),
      HumanBytes(mix->quantized_bytes));
  if (!flags.out.empty()) {
    fmt::print("recipe: {}\n", flags.out);
  } else {
    fmt::print("{}\n", RecipeYaml(mix->recipe));
  }
}

void PrintSensitivityJson(const SensitivityFlags& flags, std::string_view text,
                          const v1::QuantizeRequest& asked, const Sensitivity& sensitivity,
                          const std::optional<Mix>& mix) {
  auto json = nlohmann::ordered_json::parse(text);
  json["folder"] = asked.output_dir();
  if (mix) {
    nlohmann::ordered_json out = {{"error_left", mix->error_left},
                                  {"share_left", ShareOf(mix->error_left, sensitivity.whole)},
                                  {"output_bytes", mix->output_bytes},
                                  {"quantized_bytes", mix->quantized_bytes},
                                  {"kept", nlohmann::ordered_json::array()},
                                  {"yaml", RecipeYaml(mix->recipe)}};
    for (const SensitivityGroup* group : mix->kept) {
      out["kept"].push_back({{"layer", group->layer}, {"point", FigurePoint(group->point)}});
    }
    if (!flags.out.empty()) out["recipe"] = flags.out;
    json["mix"] = std::move(out);
  }
  fmt::print("{}\n", json.dump());
}

// What the figures do not say.
void PrintGaps(const v1::Recipe& recipe) {
  for (const v1::Rule& rule : recipe.rules()) {
    if (!HasStaticInput(rule.scheme())) continue;
    fmt::print(stderr, "note: errors of static inputs are not measured, those of weights are\n");
    break;
  }
  if (HasSolver(recipe)) {
    fmt::print(stderr,
               "note: weights are measured rounded to nearest; the solver makes less of it\n");
  }
}

absl::Status RunSensitivity(const Context& context, const SensitivityFlags& flags) {
  StopSignal stop;
  OCTAVO_RETURN_IF_ERROR(CheckBudgetFlags(flags));
  v1::SubmitJobRequest request;
  OCTAVO_ASSIGN_OR_RETURN(*request.mutable_quantize(), RequestOf(context, flags, stop));
  PrintGaps(request.quantize().recipe());
  OCTAVO_RETURN_IF_ERROR(RunMeasurement(context, flags, stop, request));
  const v1::QuantizeRequest& asked = request.quantize();
  const std::string path = JoinPath(asked.output_dir(), kSensitivityName);
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ReadWhole(LocalStore(), path, kResultBytesMax));
  OCTAVO_ASSIGN_OR_RETURN(const Sensitivity sensitivity, ParseSensitivity(text, path));
  OCTAVO_ASSIGN_OR_RETURN(const std::optional<Mix> mix, MixOf(flags, sensitivity, asked));
  if (flags.json) {
    PrintSensitivityJson(flags, text, asked, sensitivity, mix);
  } else {
    PrintSensitivity(flags, asked, sensitivity, mix);
  }
  return absl::OkStatus();
}

}  // namespace

void AddSensitivity(CLI::App& app, Context& context) {
  auto flags = std::make_shared<SensitivityFlags>();
  CLI::App* command = app.add_subcommand(
      "sensitivity", "Which linear layers hurt most when quantized, and a recipe for a budget");
  command->add_option("SRC", flags->source, "A Hugging Face checkpoint folder")->required();
  command
      ->add_option("--recipe", flags->recipe,
                   "A preset or a YAML file; inputs are measured "
                   "where their scales are found at run time")
      ->capture_default_str();
  AddCalibrationFlags(*command, flags->calibration);
  AddClusterFlags(*command, flags->cluster);
  command
      ->add_option("--budget-error", flags->budget_error,
                   "Keep layers until this share of the whole error is left")
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--budget-bytes", flags->budget_bytes,
                      "Keep layers as far as the output has no more bytes than this (3GiB)");
  command->add_option("--out", flags->out, "Where the recipe for the budget goes (YAML)");
  command->add_option("--work", flags->work,
                      "Folder for what is measured; the same command finds it there and measures "
                      "nothing again (default: in the state folder)");
  command->add_option("--top", flags->top, "Rows of the table")->capture_default_str();
  command->add_flag("--overwrite", flags->overwrite, "Replace another measurement in --work");
  command->add_flag("--json", flags->json, "The last line of output is one JSON object");
  command->callback([&context, flags] {
    context.action = [&context, flags] { return RunSensitivity(context, *flags); };
  });
}

}  // namespace octavo
