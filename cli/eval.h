#pragma once

// What `octavo eval ppl` and `octavo eval compare` have in common: flags, and the windows of ids
// that a model is given.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/calibration_source.h"
#include "cli/model_client.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "octavo/v1/job.pb.h"

namespace octavo {

using Window = std::vector<int32_t>;

// Of a model that is quantized for one evaluation only.
struct PseudoQuantFlags {
  std::string recipe;  // empty: the model is evaluated as it is
  CalibrationFlags calibration;
  std::string scratch;  // folder for the quantized copy; empty: the system's for temporary files
};

struct EvalFlags {
  ServeRequest request;  // the model; in a comparison the one under test
  std::string reference;
  ClusterFlags cluster;
  std::string text;
  std::string ids;
  int64_t windows = 0;  // 0: all
  int64_t window_tokens = 2048;
  bool layers = false;            // of a comparison
  PseudoQuantFlags pseudo_quant;  // of a perplexity
  bool json = false;
};

void AddEvalFlags(CLI::App& command, EvalFlags& flags);

// `flags.text` tokenized once by `model` with the tokenizer's default special tokens and cut into
// windows without overlap, the tail dropped (docs/numerics.md, perplexity); or the lines of
// `flags.ids`. At most `flags.windows` of them.
absl::StatusOr<std::vector<Window>> EvalWindows(const Session& session, const std::string& model,
                                                const EvalFlags& flags);

// A scored window takes at most this long.
inline constexpr std::chrono::seconds kScoreTimeout{3'600};

// Loads `request` on the session's cluster, and takes it off again at the end where it was not
// there before and the cluster stays.
class LoadedModel {
 public:
  static absl::StatusOr<LoadedModel> Load(const Session& session, const StopSignal& stop,
                                          const ServeRequest& request);
  const std::string& id() const { return id_; }
  absl::Status Unload();

 private:
  LoadedModel(const Session* session, std::string id, bool ours)
      : session_(session), id_(std::move(id)), ours_(ours) {}
  const Session* session_;
  std::string id_;
  bool ours_;
};

// A quantized copy of a checkpoint in a folder of its own, which goes when this does: let the model
// be unloaded and a local cluster be stopped before.
class PseudoQuantized {
 public:
  // Checks the flags and reads the calibration input; nothing is written yet. kUsage where a remote
  // cluster is used and no folder given that its workers share.
  static absl::StatusOr<std::unique_ptr<PseudoQuantized>> Prepare(const EvalFlags& flags,
                                                                  const StopSignal& stop);
  ~PseudoQuantized();
  PseudoQuantized(const PseudoQuantized&) = delete;
  PseudoQuantized& operator=(const PseudoQuantized&) = delete;

  // Quantizes; says on standard error where and how much is written. Returns the folder.
  absl::StatusOr<std::string> Make(const Session& session, const StopSignal& stop);

 private:
  PseudoQuantized() = default;
  v1::SubmitJobRequest request_;
  std::string dir_;  // holds the copy and all that its job leaves
};

// octavo eval compare
absl::Status CompareModels(const Context& context, EvalFlags flags);

}  // namespace octavo
