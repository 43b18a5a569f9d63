#pragma once

// From plan to finished folder. The order is
//
//   CheckPlaces -> LookAtOutput -> StageFolder -> (units run) -> FinishFolder -> PublishFolder
//
// Everything happens in the staging folder, beside the output on the same file system; the output
// name appears in one rename. Every step may be repeated after a crash.

#include <map>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "octavo/v1/artifact.pb.h"
#include "octavo/v1/job.pb.h"
#include "octavo/v1/plan.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

struct Figures;  // coordinator/report/figures.h

inline constexpr char kManifestName[] = "octavo_manifest.json";
inline constexpr char kCardName[] = "README.md";

// Refuses, before any work, an output that is the source, inside it or around it, an output or a
// parent that cannot be written, and an output that is a mount point (kOutputUnwritable, kUsage).
absl::Status CheckPlaces(const std::string& source_dir, const std::string& output_dir);

enum class OutputState {
  kAbsent,     // nothing there
  kSame,       // a finished folder of this very plan: the job is already done
  kDifferent,  // something else, or damaged
};
struct OutputLook {
  OutputState state = OutputState::kAbsent;
  std::string found;  // for kDifferent: what is there ("made with recipe int8-dynamic")
};
// Compares recipe, calibration, sources and files (names, sizes) in the manifest with the plan.
// Reads no weights.
absl::StatusOr<OutputLook> LookAtOutput(const std::string& output_dir, const v1::Plan& plan);

// Creates job.staging_dir with every output file at its final size (space reserved where the file
// system can), heads and generated files written, side files carried over from job.request's source
// (checked against their digests: kSourceChanged). Keeps bytes that units already wrote, so a
// resumed job calls it again. kDiskFull says how many bytes are needed.
absl::Status StageFolder(const v1::Job& job, const v1::Plan& plan);

// Writes what FolderTexts holds, from one receipt per unit, and syncs every file and the folder.
// Byte-identical for any order of receipts. kInternal if ranges do not tile the files exactly.
absl::Status FinishFolder(const v1::Job& job, const v1::Plan& plan,
                          std::span<const v1::Receipt> receipts);

// What is said in a folder about what lies there: the manifest, and the files that it lists like
// all others (the report in both forms, the model card), by name.
struct FolderTexts {
  v1::Manifest manifest;
  std::map<std::string, std::string> files;
};
// Of the ids of all samples and of their lengths (the same ids may be cut in other places).
v1::Digest CalibrationDigest(const v1::CalibrationPlan& calibration);
absl::StatusOr<FolderTexts> MakeFolderTexts(const v1::Plan& plan,
                                            std::span<const v1::Receipt> receipts);

// The model card (README.md): recipe, command with SRC and DST, error figures, how to load it. Only
// what the job itself measured or did is in it. Lists the files of `manifest`, which does not hold
// the card itself yet.
std::string ModelCard(const v1::Plan& plan, const v1::Manifest& manifest, const Figures& figures);

// Moves a finished staging folder to its final name: one rename that never replaces anything
// (kOutputExists); with `overwrite` an exchange, after which the old folder is removed. Syncs the
// parent. Passes the fault points mid-publish (before the rename) and after-publish. After a crash,
// ask LookAtOutput first: kSame means that the rename happened, and what is left under staging_dir
// (the old folder of an exchange) is to be removed.
absl::Status PublishFolder(const std::string& staging_dir, const std::string& output_dir,
                           bool overwrite);

// Removes a staging folder (cancelled or failed jobs). OK if it is not there.
absl::Status RemoveFolder(const std::string& dir);

}  // namespace octavo
