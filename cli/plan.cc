// octavo plan SRC --recipe R: what would be done, from headers only.

#include "cli/plan.h"

#include <algorithm>
#include <memory>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "cli/quantity.h"
#include "cli/rates.h"
#include "cli/recipe_source.h"
#include "coordinator/planner/quantize_plan.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/summary.h"
#include "core/store/local_store.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

nlohmann::ordered_json PlanJson(const v1::Plan& plan, const Estimate& estimate) {
  nlohmann::ordered_json json = {{"digest", PlanDigest(plan)},
                                 {"recipe", plan.recipe().name()},
                                 {"units", estimate.units},
                                 {"phases", estimate.phases},
                                 {"source_bytes", estimate.source_bytes},
                                 {"reread_bytes", estimate.reread_bytes},
                                 {"output_bytes", estimate.output_bytes},
                                 {"disk_bytes", estimate.disk_bytes},
                                 {"unit_bytes_max", estimate.unit_bytes_max},
                                 {"memory_bytes_min", estimate.memory_bytes_min},
                                 {"quantized_tensors", estimate.quantized_tensors},
                                 {"kept_tensors", estimate.kept_tensors},
                                 {"seconds", nullptr},
                                 {"limit", nullptr},
                                 {"warnings", nlohmann::ordered_json::array()}};
  if (estimate.seconds) {
    json["seconds"] = *estimate.seconds;
    json["limit"] = estimate.limit;
  }
  for (const v1::Warning& warning : plan.warnings()) {
    json["warnings"].push_back({{"tensor", warning.tensor()}, {"text", warning.text()}});
  }
  return json;
}

void PrintText(const v1::Plan& plan, const Estimate& estimate, int workers) {
  fmt::print("recipe {}: {} tensors quantized, {} kept\n", plan.recipe().name(),
             estimate.quantized_tensors, estimate.kept_tensors);
  fmt::print("units: {} in {} phase{}\n", estimate.units, estimate.phases,
             estimate.phases == 1 ? "" : "s");
  fmt::print("read: {}{}\n", HumanBytes(estimate.source_bytes),
             estimate.reread_bytes == 0 ? std::string()
                                        : fmt::format(", and {} again for joint scales",
                                                      HumanBytes(estimate.reread_bytes)));
  fmt::print("output: {}\n", HumanBytes(estimate.output_bytes));
  fmt::print("disk needed: {}\n", HumanBytes(estimate.disk_bytes));
  fmt::print("memory: {} for the largest unit; --memory at least {}\n",
             HumanBytes(estimate.unit_bytes_max), HumanBytes(estimate.memory_bytes_min));
  if (estimate.seconds) {
    fmt::print("time: about {} with {} worker{}, limited by {}\n", DurationText(*estimate.seconds),
               workers, workers == 1 ? "" : "s", estimate.limit);
  } else {
    fmt::print("time: unknown (octavo bench rates measures this machine)\n");
  }
  for (const v1::Warning& warning : plan.warnings()) {
    fmt::print("warning: {}{}{}\n", warning.tensor(), warning.tensor().empty() ? "" : ": ",
               warning.text());
  }
}

}  // namespace

absl::Status PrintPlan(const Context& context, const PlanFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(const v1::Recipe recipe, LoadRecipe(flags.recipe));
  OCTAVO_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                          OpenCheckpoint(LocalStore(), flags.source, Accept::kPlainOnly));
  OCTAVO_ASSIGN_OR_RETURN(const std::optional<v1::CalibrationSet> calibration,
                          LoadCalibration(recipe, flags.source, flags.calibration));
  OCTAVO_ASSIGN_OR_RETURN(
      const v1::Plan plan,
      BuildPlan(checkpoint, recipe, calibration.value_or(v1::CalibrationSet())));
  const Estimate estimate = EstimateJob(plan, LoadRates(context.places), flags.workers);
  if (flags.json) {
    fmt::print("{}\n", PlanJson(plan, estimate).dump());
  } else {
    PrintText(plan, estimate, flags.workers);
  }
  return absl::OkStatus();
}

void AddPlan(CLI::App& app, Context& context) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app.add_subcommand("plan", "What quantizing would do; reads headers only");
  command->add_option("SRC", flags->source, "A checkpoint folder")->required();
  command->add_option("--recipe", flags->recipe, "A preset or a YAML file")->capture_default_str();
  AddCalibrationFlags(*command, flags->calibration);
  command->add_option("--workers", flags->workers, "Workers to estimate for")
      ->check(CLI::Range(1, 1024));
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback([&context, flags] {
    context.action = [&context, flags] { return PrintPlan(context, *flags); };
  });
}

}  // namespace octavo
