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
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/summary.h"
#include "core/store/local_store.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

constexpr int kScalingMax = 256;

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
  if (plan.has_calibration()) {
    json["calibration"] = {{"micro_batches", plan.calibration().batches_size()},
                           {"operations", estimate.operations},
                           {"layer_reread_bytes", estimate.layer_reread_bytes},
                           {"memory_bytes_resident", estimate.memory_bytes_resident}};
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
  if (plan.has_calibration()) {
    fmt::print(
        "layers: stay in memory from --memory {} on; below, read for each of {} micro-batches\n",
        HumanBytes(estimate.memory_bytes_resident), plan.calibration().batches_size());
  }
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

// 1, 2, 4 .. 256 workers, and what keeps the next doubling from halving the time.
absl::Status PrintScaling(const v1::Plan& plan, const MachineRates& rates, Workforce force,
                          bool as_json) {
  force.own_machines = true;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  double alone = 0;
  for (force.workers = 1; force.workers <= kScalingMax; force.workers *= 2) {
    const Estimate estimate = EstimateJob(plan, rates, force);
    if (!estimate.seconds) {
      return MakeError(Reason::kBadRequest, "no rates of this machine are known", {},
                       "Measure them with octavo bench rates");
    }
    if (force.workers == 1) alone = *estimate.seconds;
    rows.push_back({{"workers", force.workers},
                    {"seconds", *estimate.seconds},
                    {"speed_up", alone / *estimate.seconds},
                    {"limit", estimate.limit}});
  }
  if (as_json) {
    fmt::print("{}\n", rows.dump());
    return absl::OkStatus();
  }
  fmt::print("{:>8} {:>12} {:>9}   {}\n", "workers", "time", "speed-up", "limited by");
  for (const auto& row : rows) {
    fmt::print("{:>8} {:>12} {:>9.1f}   {}\n", row["workers"].get<int>(),
               DurationText(row["seconds"].get<double>()), row["speed_up"].get<double>(),
               row["limit"].get<std::string>());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PrintPlan(const Context& context, const PlanFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(const v1::Recipe recipe, LoadRecipe(flags.recipe, flags.compat));
  OCTAVO_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                          OpenCheckpoint(LocalStore(), flags.source, Accept::kPlainOnly));
  OCTAVO_ASSIGN_OR_RETURN(const std::optional<v1::CalibrationSet> calibration,
                          LoadCalibration(recipe, flags.source, flags.calibration));
  OCTAVO_ASSIGN_OR_RETURN(
      const v1::Plan plan,
      BuildPlan(checkpoint, recipe, calibration.value_or(v1::CalibrationSet())));
  Workforce force = {.workers = flags.workers, .own_machines = flags.own_machines};
  OCTAVO_ASSIGN_OR_RETURN(force.memory_bytes, ParseBytes(flags.memory, "--memory"));
  const MachineRates rates = LoadRates(context.places);
  if (flags.scaling) return PrintScaling(plan, rates, force, flags.json);
  const Estimate estimate = EstimateJob(plan, rates, force);
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
  AddCompatFlag(*command, flags->compat);
  AddCalibrationFlags(*command, flags->calibration);
  command->add_option("--workers", flags->workers, "Workers to estimate for")
      ->check(CLI::Range(1, 1024));
  command->add_option("--memory", flags->memory, "Memory of each worker")->capture_default_str();
  command->add_flag("--own-machines", flags->own_machines,
                    "Each worker on a machine like this one; storage is shared");
  command->add_flag("--scaling", flags->scaling,
                    "A table of 1 to 256 workers, each on a machine like this one");
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback([&context, flags] {
    context.action = [&context, flags] { return PrintPlan(context, *flags); };
  });
}

}  // namespace octavo
