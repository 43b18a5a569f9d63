#include "coordinator/control/job_steps.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "coordinator/control/job_journal.h"
#include "coordinator/control/scratch_folder.h"
#include "coordinator/planner/calibration_plan.h"
#include "coordinator/planner/publish.h"
#include "coordinator/planner/quantize_plan.h"
#include "coordinator/planner/sensitivity_plan.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/store/local_store.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace octavo {
namespace {

std::string DeterministicBytes(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

std::string NormalPath(const std::string& path) {
  std::string normal = std::filesystem::path(path).lexically_normal().string();
  while (normal.size() > 1 && normal.back() == '/') normal.pop_back();
  return normal;
}

absl::Status RemoveFolders(const v1::Job& job) {
  OCTAVO_RETURN_IF_ERROR(RemoveFolder(ScratchDirOf(job.staging_dir())));
  return RemoveFolder(job.staging_dir());
}

// The journal's receipts whose files are still there at their planned sizes; the others' units are
// to be done again.
void KeepReceipts(std::vector<v1::Receipt> receipts, PreparedJob& prepared) {
  std::vector<bool> whole(prepared.plan.outputs_size());
  const LocalStore store;
  for (int i = 0; i < prepared.plan.outputs_size(); ++i) {
    const v1::OutputFile& file = prepared.plan.outputs(i);
    const auto facts = store.Stat(JoinPath(prepared.job.staging_dir(), file.name()));
    whole[i] = facts.ok() && facts->size == file.size();
  }
  for (v1::Receipt& receipt : receipts) {
    const bool kept =
        receipt.unit_id() < static_cast<uint32_t>(prepared.plan.units_size()) &&
        std::all_of(receipt.ranges().begin(), receipt.ranges().end(), [&](const auto& range) {
          return range.range().file() < whole.size() && whole[range.range().file()];
        });
    if (kept) {
      prepared.kept.push_back(std::move(receipt));
    } else {
      prepared.dropped.push_back(receipt.unit_id());
    }
  }
}

absl::Status CheckFreeSpace(const v1::Job& job, const v1::Plan& plan) {
  const LocalStore store;
  uint64_t have = 0;  // a resumed job's files hold their space already
  for (const v1::OutputFile& file : plan.outputs()) {
    const auto facts = store.Stat(JoinPath(job.staging_dir(), file.name()));
    if (facts.ok()) have += std::min<uint64_t>(facts->size, file.size());
  }
  const uint64_t need =
      plan.output_bytes() - std::min(have, plan.output_bytes()) + SpillBytes(plan);
  const auto free_bytes = store.FreeBytes(job.request().output_dir());
  if (!free_bytes.ok()) return free_bytes.status();
  if (*free_bytes >= need) return absl::OkStatus();
  return MakeError(Reason::kDiskFull,
                   fmt::format("the job needs {} bytes more and {} are free", need, *free_bytes),
                   {.file = job.request().output_dir()},
                   "Free space and run the same command again");
}

absl::Status CheckOutput(const v1::Job& job, const v1::Plan& plan, bool* already_done) {
  const std::string& output = job.request().output_dir();
  OCTAVO_ASSIGN_OR_RETURN(const OutputLook look, LookAtOutput(output, plan));
  *already_done = look.state == OutputState::kSame;
  if (look.state != OutputState::kDifferent || job.request().overwrite()) return absl::OkStatus();
  return MakeError(Reason::kOutputExists,
                   fmt::format("the output exists ({}) and is not what recipe {} makes of this "
                               "source",
                               look.found, plan.recipe().name()),
                   {.file = output}, "Choose another output, or pass --overwrite");
}

absl::StatusOr<v1::Plan> PlanOf(const Checkpoint& checkpoint, const v1::QuantizeRequest& asked) {
  if (!asked.has_measure()) return BuildPlan(checkpoint, asked.recipe(), asked.calibration());
  return BuildSensitivityPlan(checkpoint, asked.recipe(), asked.measure(), asked.calibration());
}

}  // namespace

std::string JobIdOf(const v1::SubmitJobRequest& request) {
  std::string text = request.idempotency_key();
  if (text.empty()) {
    const v1::QuantizeRequest& asked = request.quantize();  // not copied: it may hold many ids
    text = fmt::format("{}\n{}\n{}", NormalPath(asked.source_dir()), NormalPath(asked.output_dir()),
                       DeterministicBytes(asked.recipe()));
    if (asked.has_measure()) text += "\nmeasure " + DeterministicBytes(asked.measure());
    if (asked.has_calibration()) {
      text += DeterministicBytes(asked.calibration().digest());
      text += fmt::format("{}", fmt::join(asked.calibration().sample_lengths(), ","));
    }
  }
  return DigestOf(text).Hex().substr(0, 16);
}

absl::Status CheckRequest(const v1::QuantizeRequest& request) {
  for (const auto& [name, path] : {std::pair("source_dir", request.source_dir()),
                                   std::pair("output_dir", request.output_dir())}) {
    if (path.empty() || path.front() != '/') {
      return MakeError(Reason::kBadRequest,
                       fmt::format("{} '{}' is not an absolute path", name, path));
    }
  }
  if (request.recipe().rules().empty()) {
    return MakeError(Reason::kBadRequest, "the request has no recipe");
  }
  return CheckCalibrationSet(request);
}

v1::QuantizeRequest Normalized(v1::QuantizeRequest request) {
  request.set_source_dir(NormalPath(request.source_dir()));
  request.set_output_dir(NormalPath(request.output_dir()));
  return request;
}

std::string StagingDirOf(const std::string& output_dir, const std::string& job_id) {
  return fmt::format("{}.octavo/{}", output_dir, job_id);
}
std::string ReportPathOf(const std::string& output_dir) { return output_dir + ".report.json"; }

absl::StatusOr<PreparedJob> PrepareJob(v1::Job job, std::string_view ids, StateStore& store) {
  PreparedJob prepared;
  const std::string& source = job.request().source_dir();
  OCTAVO_RETURN_IF_ERROR(CheckPlaces(source, job.request().output_dir()));
  OCTAVO_ASSIGN_OR_RETURN(const std::optional<std::string> earlier,
                          LoadPlanDigest(store, job.id()));
  if (earlier && !job.sources().empty()) {
    const std::vector<v1::SourceFile> files(job.sources().begin(), job.sources().end());
    OCTAVO_RETURN_IF_ERROR(CheckUnchanged(source, files));
  }
  {
    OCTAVO_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                            OpenCheckpoint(LocalStore(), source, Accept::kPlainOnly));
    OCTAVO_ASSIGN_OR_RETURN(prepared.plan, PlanOf(checkpoint, job.request()));
    *job.mutable_sources() = {checkpoint.files.begin(), checkpoint.files.end()};
  }
  prepared.plan_digest = PlanDigest(prepared.plan);
  if (earlier && *earlier != prepared.plan_digest) {
    return MakeError(Reason::kSourceChanged,
                     "the plan of this job is not the one that its earlier run followed",
                     {.file = source}, "Run the same command again to start over");
  }
  *job.mutable_warnings() = prepared.plan.warnings();
  bool already_done = false;
  OCTAVO_RETURN_IF_ERROR(CheckOutput(job, prepared.plan, &already_done));
  job.set_already_done(already_done);
  prepared.job = std::move(job);
  if (already_done) {
    prepared.unreported = earlier && !LocalStore().Exists(prepared.job.report_path());
    return prepared;
  }

  OCTAVO_RETURN_IF_ERROR(CheckFreeSpace(prepared.job, prepared.plan));
  if (earlier) {
    OCTAVO_ASSIGN_OR_RETURN(std::vector<v1::Receipt> receipts,
                            LoadReceipts(store, prepared.job.id()));
    KeepReceipts(std::move(receipts), prepared);
    DropBrokenBatches(prepared.job, prepared.plan, &prepared.kept, &prepared.dropped);
  } else {  // without a journal nothing in the folders can be trusted
    OCTAVO_RETURN_IF_ERROR(RemoveFolders(prepared.job));
  }
  OCTAVO_RETURN_IF_ERROR(StageFolder(prepared.job, prepared.plan));
  OCTAVO_RETURN_IF_ERROR(StageScratch(prepared.job, prepared.plan, ids));
  return prepared;
}

void DropStaging(const v1::Job& job) {
  const absl::Status removed = RemoveFolders(job);
  if (!removed.ok()) spdlog::warn("{}", std::string(removed.message()));
}

absl::Status PublishJob(const v1::Job& job, const v1::Plan& plan,
                        const std::vector<v1::Receipt>& receipts) {
  const std::vector<v1::SourceFile> files(job.sources().begin(), job.sources().end());
  OCTAVO_RETURN_IF_ERROR(CheckUnchanged(job.request().source_dir(), files));
  OCTAVO_RETURN_IF_ERROR(FinishFolder(job, plan, receipts));
  OCTAVO_RETURN_IF_ERROR(
      PublishFolder(job.staging_dir(), job.request().output_dir(), job.request().overwrite()));
  OCTAVO_RETURN_IF_ERROR(RemoveFolder(ScratchDirOf(job.staging_dir())));
  // A local cluster's journal lies there too; then the folder is not empty and stays.
  rmdir(std::filesystem::path(job.staging_dir()).parent_path().c_str());
  return absl::OkStatus();
}

}  // namespace octavo
