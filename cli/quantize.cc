// octavo quantize SRC --recipe R --out DST

#include <filesystem>
#include <memory>

#include "CLI/CLI.hpp"
#include "cli/calibration_source.h"
#include "cli/context.h"
#include "cli/job_client.h"
#include "cli/job_folder.h"
#include "cli/plan.h"
#include "cli/quantity.h"
#include "cli/recipe_source.h"
#include "cli/run_job.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "coordinator/planner/publish.h"
#include "coordinator/report/report.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "core/checkpoint/summary.h"
#include "fmt/format.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;

struct QuantizeFlags {
  std::string source;
  std::string recipe = "fp8-dynamic";
  std::string compat;
  std::string out;
  CalibrationFlags calibration;
  ClusterFlags cluster;
  bool overwrite = false;
  bool dry_run = false;
  bool json = false;
};

std::string Absolute(const std::string& path) {
  std::string text = fs::absolute(path).lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

void PrintResult(const v1::Job& job, bool json) {
  if (json) {
    fmt::print("{}\n", JobJson(job).dump());
    return;
  }
  const std::string& out = job.request().output_dir();
  if (job.already_done()) {
    fmt::print("{}: already done, recipe {}\n", out, job.request().recipe().name());
    return;
  }
  const v1::JobProgress& progress = job.progress();
  const double seconds = progress.elapsed_seconds();
  fmt::print("{}: recipe {}, {} units ({} from an earlier run), {} read, {} written in {}{}\n", out,
             job.request().recipe().name(), progress.units_total(), progress.units_reused(),
             HumanBytes(progress.bytes_read()), HumanBytes(progress.bytes_written()),
             DurationText(seconds),
             seconds > 0 ? ", " + RateText(static_cast<double>(progress.bytes_read()) / seconds)
                         : std::string());
  fmt::print("report: {}/{} (for programs {})\n", out, kReportPageName, kReportName);
  if (!job.report_path().empty()) fmt::print("times: {}\n", job.report_path());
}

absl::Status Quantize(const Context& context, const QuantizeFlags& flags) {
  StopSignal stop;
  v1::SubmitJobRequest request;
  v1::QuantizeRequest& quantize = *request.mutable_quantize();
  quantize.set_source_dir(Absolute(flags.source));
  quantize.set_output_dir(Absolute(flags.out));
  quantize.set_overwrite(flags.overwrite);
  OCTAVO_ASSIGN_OR_RETURN(*quantize.mutable_recipe(), LoadRecipe(flags.recipe, flags.compat));

  const bool local = flags.cluster.coordinator.empty();
  // Before anything is made beside the output: a mistyped path must leave no trace.
  if (local) {
    if (!fs::is_directory(quantize.source_dir())) {
      return MakeError(Reason::kInputMissing, "the source is not a folder",
                       {.file = quantize.source_dir()}, "Give a checkpoint folder");
    }
    OCTAVO_RETURN_IF_ERROR(CheckPlaces(quantize.source_dir(), quantize.output_dir()));
  }
  OCTAVO_ASSIGN_OR_RETURN(
      auto calibration,
      LoadCalibration(quantize.recipe(), quantize.source_dir(), flags.calibration, stop.token()));
  if (calibration) *quantize.mutable_calibration() = *std::move(calibration);

  std::unique_ptr<JobFolder> folder;  // outlives the cluster that works in it
  std::unique_ptr<Session> session;
  if (!local) {
    OCTAVO_ASSIGN_OR_RETURN(session, Session::Remote(context, flags.cluster));
  } else {
    OCTAVO_ASSIGN_OR_RETURN(folder, JobFolder::Open(quantize.output_dir()));
    OCTAVO_ASSIGN_OR_RETURN(session, folder->StartCluster(context, flags.cluster, stop));
  }

  const absl::StatusOr<v1::Job> job = RunJob(*session, stop, request);
  session->Stop();
  if (stop.requested() && (!job.ok() || job->state() != v1::JOB_DONE)) {
    if (!job.ok()) spdlog::warn("{}", std::string(job.status().message()));
    return MakeError(Reason::kCancelled, "interrupted before the output was published", {},
                     "Run the same command again to resume");
  }
  if (!job.ok()) return job.status();
  const absl::Status outcome = OutcomeOf(*job);
  if (outcome.ok() || flags.json) PrintResult(*job, flags.json);
  return outcome;
}

}  // namespace

void AddQuantize(CLI::App& app, Context& context) {
  auto flags = std::make_shared<QuantizeFlags>();
  CLI::App* command = app.add_subcommand("quantize", "Turn a checkpoint into eight bits");
  command->add_option("SRC", flags->source, "A Hugging Face checkpoint folder")->required();
  command->add_option("--recipe", flags->recipe, "A preset (octavo recipe list) or a YAML file")
      ->capture_default_str();
  AddCompatFlag(*command, flags->compat);
  command->add_option("--out", flags->out, "Folder to make")->required();
  AddCalibrationFlags(*command, flags->calibration);
  AddClusterFlags(*command, flags->cluster);
  command->add_flag("--overwrite", flags->overwrite, "Replace an output made from something else");
  command->add_flag("--dry-run", flags->dry_run, "Only say what would be done");
  command->add_flag("--json", flags->json, "The last line of output is one JSON object");
  command->callback([&context, flags] {
    context.action = [&context, flags]() -> absl::Status {
      if (!flags->dry_run) return Quantize(context, *flags);
      return PrintPlan(context, {.source = flags->source,
                                 .recipe = flags->recipe,
                                 .compat = flags->compat,
                                 .calibration = flags->calibration,
                                 .workers = flags->cluster.workers,
                                 .json = flags->json});
    };
  });
}

}  // namespace octavo
