// octavo eval ppl SRC --pseudo-quant RECIPE: the figure is that of the real thing. The checkpoint
// is quantized by the job that `octavo quantize` runs, and served by the kernels that would serve
// it; only the folder does not stay. It takes the disk that the output takes.

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "cli/eval.h"
#include "cli/job_client.h"
#include "cli/recipe_source.h"
#include "cli/run_job.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/summary.h"
#include "fmt/format.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;

bool IsGiven(const CalibrationFlags& flags) {
  return !flags.input.empty() || flags.samples || flags.sample_length || flags.seed ||
         !flags.packing.empty();
}

absl::Status CheckFlags(const EvalFlags& flags) {
  const PseudoQuantFlags& own = flags.pseudo_quant;
  if (own.recipe.empty()) {
    if (own.scratch.empty() && !IsGiven(own.calibration)) return absl::OkStatus();
    return MakeError(Reason::kUsage, "--scratch and calibration are for --pseudo-quant", {},
                     "Pass --pseudo-quant RECIPE");
  }
  if (!flags.cluster.coordinator.empty() && own.scratch.empty()) {
    return MakeError(Reason::kUsage, "--scratch is missing: its workers must see the folder", {},
                     "Pass a folder on storage that the cluster shares");
  }
  if (!fs::is_directory(flags.request.dir)) {
    return MakeError(Reason::kInputMissing, "the source is not a folder",
                     {.file = flags.request.dir}, "Give a checkpoint folder");
  }
  return absl::OkStatus();
}

uint64_t WeightBytes(const std::string& dir) {
  uint64_t bytes = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(dir, error)) {
    if (entry.path().extension() == ".safetensors") bytes += entry.file_size(error);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PseudoQuantized>> PseudoQuantized::Prepare(const EvalFlags& flags,
                                                                          const StopSignal& stop) {
  OCTAVO_RETURN_IF_ERROR(CheckFlags(flags));
  std::unique_ptr<PseudoQuantized> made(new PseudoQuantized);
  const PseudoQuantFlags& own = flags.pseudo_quant;
  if (own.recipe.empty()) return made;
  v1::QuantizeRequest& quantize = *made->request_.mutable_quantize();
  quantize.set_source_dir(fs::absolute(flags.request.dir).lexically_normal().string());
  OCTAVO_ASSIGN_OR_RETURN(*quantize.mutable_recipe(), LoadRecipe(own.recipe));
  OCTAVO_ASSIGN_OR_RETURN(
      auto calibration,
      LoadCalibration(quantize.recipe(), quantize.source_dir(), own.calibration, stop.token()));
  if (calibration) *quantize.mutable_calibration() = *std::move(calibration);

  const fs::path scratch = own.scratch.empty() ? fs::temp_directory_path() : fs::path(own.scratch);
  std::string dir = (fs::absolute(scratch) / "octavo-pseudo-XXXXXX").lexically_normal().string();
  if (mkdtemp(dir.data()) == nullptr) {
    return ErrnoError("cannot make a temporary folder", errno, {.file = dir});
  }
  made->dir_ = dir;
  // The folder's name becomes the model's, which must be no other's on a resident cluster.
  quantize.set_output_dir((fs::path(dir) / fs::path(dir).filename()).string());
  return made;
}

PseudoQuantized::~PseudoQuantized() {
  std::error_code ignored;
  if (!dir_.empty()) fs::remove_all(dir_, ignored);
}

absl::StatusOr<std::string> PseudoQuantized::Make(const Session& session, const StopSignal& stop) {
  const v1::QuantizeRequest& quantize = request_.quantize();
  std::error_code error;
  const fs::space_info space = fs::space(dir_, error);
  fmt::print(stderr,
             "a copy quantized by {} goes to {} ({} free) and is removed at the end; the source's "
             "weights are {}\n",
             quantize.recipe().name(), dir_, error ? "?" : HumanBytes(space.available),
             HumanBytes(WeightBytes(quantize.source_dir())));
  OCTAVO_ASSIGN_OR_RETURN(const v1::Job job, RunJob(session, stop, request_));
  if (stop.requested()) return MakeError(Reason::kCancelled, "interrupted");
  OCTAVO_RETURN_IF_ERROR(OutcomeOf(job));
  return quantize.output_dir();
}

}  // namespace octavo
