#include "coordinator/control/scratch_folder.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "coordinator/planner/quantize_plan.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/plan/scratch_files.h"
#include "core/store/local_store.h"
#include "fmt/format.h"

namespace octavo {
namespace {

bool SameDigest(const v1::Digest& a, const v1::Digest& b) {
  return a.low() == b.low() && a.high() == b.high();
}

v1::Digest DigestMessage(std::string_view bytes) {
  const Digest128 digest = DigestOf(bytes);
  v1::Digest message;
  message.set_low(digest.low);
  message.set_high(digest.high);
  return message;
}

// True if the files of a micro-batch's receipts are all there. The activations going into a layer
// are needed only while no later layer is done.
bool IsWhole(const std::string& dir, const v1::Plan& plan,
             const std::map<uint32_t, const v1::Receipt*>& by_layer) {
  const LocalStore store;
  uint32_t expected = 0;
  for (const auto& [layer, receipt] : by_layer) {
    if (layer != expected++) return false;
    for (const v1::ScratchFile& file : receipt->scratch()) {
      const bool newest = layer == by_layer.rbegin()->first;
      const uint32_t batch = plan.units(static_cast<int>(receipt->unit_id())).batch();
      if (file.name() == RowsFileName(layer + 1, batch) && !newest) continue;
      const auto facts = store.Stat(JoinPath(dir, file.name()));
      if (!facts.ok() || facts->size != file.size()) return false;
    }
  }
  return true;
}

}  // namespace

absl::Status CheckCalibrationSet(const v1::QuantizeRequest& request) {
  const v1::CalibrationSet& set = request.calibration();
  if (request.recipe().has_calibration() != request.has_calibration()) {
    return request.has_calibration()
               ? MakeError(Reason::kBadRequest, "the recipe has nothing to calibrate", {},
                           "Leave --calibration out")
               : MakeError(Reason::kBadRequest, "the recipe has static scales: it must calibrate",
                           {}, "Pass --calibration FILE, or random");
  }
  const uint64_t tokens =
      std::accumulate(set.sample_lengths().begin(), set.sample_lengths().end(), uint64_t{0});
  if (set.ids().size() == tokens * 4 &&
      (tokens == 0 || SameDigest(DigestMessage(set.ids()), set.digest()))) {
    return absl::OkStatus();
  }
  return MakeError(Reason::kBadRequest,
                   fmt::format("the calibration set has {} bytes of ids for {} tokens, or another "
                               "digest than it says",
                               set.ids().size(), tokens));
}

absl::Status StageScratch(const v1::Job& job, const v1::Plan& plan, std::string_view ids) {
  if (!plan.has_calibration()) return absl::OkStatus();
  LocalStore store;
  const std::string dir = ScratchDirOf(job.staging_dir());
  OCTAVO_RETURN_IF_ERROR(store.CreateDirectories(dir));
  const std::string path = JoinPath(dir, kIdsFileName);
  if (const auto facts = store.Stat(path); facts.ok() && facts->size == ids.size()) {
    return absl::OkStatus();  // appeared by a rename: whole
  }
  const std::string staged = path + ".new";
  OCTAVO_RETURN_IF_ERROR(WriteWhole(store, staged, ids));
  OCTAVO_RETURN_IF_ERROR(store.Sync(staged));
  OCTAVO_RETURN_IF_ERROR(store.RemoveTree(path));
  return store.Publish(staged, path, PublishMode::kNoReplace);
}

void DropBrokenBatches(const v1::Job& job, const v1::Plan& plan, std::vector<v1::Receipt>* receipts,
                       std::vector<uint32_t>* dropped) {
  std::map<uint32_t, std::map<uint32_t, const v1::Receipt*>> batches;  // batch, layer
  for (const v1::Receipt& receipt : *receipts) {
    const v1::Unit& unit = plan.units(static_cast<int>(receipt.unit_id()));
    if (unit.kind() == v1::UNIT_CALIBRATE) batches[unit.batch()][unit.layer()] = &receipt;
  }
  std::set<uint32_t> broken;
  for (const auto& [batch, by_layer] : batches) {
    if (!IsWhole(ScratchDirOf(job.staging_dir()), plan, by_layer)) broken.insert(batch);
  }
  std::erase_if(*receipts, [&](const v1::Receipt& receipt) {
    const v1::Unit& unit = plan.units(static_cast<int>(receipt.unit_id()));
    // Scales were made of statistics that are made again: they too.
    const bool drop = unit.kind() == v1::UNIT_CALIBRATE
                          ? broken.contains(unit.batch())
                          : unit.kind() == v1::UNIT_SCALES && !broken.empty();
    if (drop) dropped->push_back(receipt.unit_id());
    return drop;
  });
}

}  // namespace octavo
