#include "coordinator/control/scratch_folder.h"

#include <algorithm>
#include <iterator>
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

// Units that take micro-batches through layers.
bool TakesBatch(const v1::Unit& unit) {
  return unit.kind() == v1::UNIT_CALIBRATE || unit.kind() == v1::UNIT_PROPAGATE;
}

// A unit that needs what others left in the scratch folder for its layer's weights.
bool UsesLeft(const v1::Unit& unit) {
  return unit.kind() == v1::UNIT_SOLVE || unit.kind() == v1::UNIT_SENSE ||
         (!unit.pieces().empty() && unit.pieces(0).has_fold());
}

// Layers of which something is still to be solved, smoothed or measured.
std::set<uint32_t> UnsolvedLayers(const v1::Plan& plan, const std::vector<v1::Receipt>& receipts) {
  std::set<uint32_t> done;
  for (const v1::Receipt& receipt : receipts) done.insert(receipt.unit_id());
  std::set<uint32_t> layers;
  for (const v1::Unit& unit : plan.units()) {
    if (UsesLeft(unit) && !done.contains(unit.id())) layers.insert(unit.layer());
  }
  return layers;
}

constexpr uint64_t kReadBytes = 1u << 20;

class ScratchCheck {
 public:
  ScratchCheck(const v1::Plan& plan, std::string dir, std::set<uint32_t> unsolved)
      : plan_(plan), dir_(std::move(dir)), unsolved_(std::move(unsolved)) {}

  // Files of Hessians are not synced: after a power cut one may have its size and not its bytes.
  bool IsThere(const v1::ScratchFile& file) const {
    const std::string path = JoinPath(dir_, file.name());
    const auto facts = store_.Stat(path);
    if (!facts.ok() || facts->size != file.size()) return false;
    std::vector<std::byte> bytes(std::min(file.size(), kReadBytes));
    DigestStream digest;
    for (uint64_t at = 0; at < file.size(); at += bytes.size()) {
      const auto some = std::span(bytes).first(std::min<uint64_t>(bytes.size(), file.size() - at));
      if (!store_.ReadAt(path, at, some).ok()) return false;
      digest.Add(some);
    }
    const Digest128 found = digest.Finish();
    return found.low == file.digest().low() && found.high == file.digest().high();
  }

  // How many of a micro-batch's receipts, by unit, may stay: all, all but the newest, or none.
  size_t KeptOf(const std::vector<uint32_t>& chain,
                const std::map<uint32_t, const v1::Receipt*>& by_unit) const {
    const size_t all = by_unit.size();
    for (size_t i = 0; i < all; ++i) {
      if (!by_unit.contains(chain[i])) return 0;
    }
    for (size_t count = all; count > 0 && count + 1 >= all; --count) {
      if (IsWhole(chain, by_unit, count)) return count;
    }
    return 0;
  }

  bool LeafIsMissing(const v1::Receipt& receipt) const {
    const v1::Unit& unit = plan_.units(static_cast<int>(receipt.unit_id()));
    const bool leaves = unit.kind() == v1::UNIT_HESSIAN || unit.kind() == v1::UNIT_SMOOTH;
    if (!leaves || !unsolved_.contains(unit.layer())) return false;
    return !std::all_of(receipt.scratch().begin(), receipt.scratch().end(),
                        [&](const v1::ScratchFile& file) { return IsThere(file); });
  }

 private:
  // True if the files of the first `count` receipts are all there that are still needed:
  // statistics; the activations that go into the next layer; what was kept for Hessians while
  // something of its layer is to be solved.
  bool IsWhole(const std::vector<uint32_t>& chain,
               const std::map<uint32_t, const v1::Receipt*>& by_unit, size_t count) const {
    for (size_t i = 0; i < count; ++i) {
      const bool newest = i + 1 == count;
      for (const v1::ScratchFile& file : by_unit.at(chain[i])->scratch()) {
        if (IsNeeded(chain[i], file.name(), newest) && !IsThere(file)) return false;
      }
    }
    return count < 2 || NewestRowsAreThere(chain, by_unit, count - 1);
  }

  bool IsNeeded(uint32_t id, const std::string& name, bool newest) const {
    const v1::Unit& unit = plan_.units(static_cast<int>(id));
    if (name == RowsFileName(unit.layer() + 1, unit.batch())) return newest;
    if (name == StatsFileName(unit.layer(), unit.batch())) return true;
    return unsolved_.contains(unit.layer());
  }

  // A unit that hands nothing on is followed by one that reads what it read itself.
  bool NewestRowsAreThere(const std::vector<uint32_t>& chain,
                          const std::map<uint32_t, const v1::Receipt*>& by_unit, size_t i) const {
    if (i + 1 == chain.size()) return true;
    const v1::Unit& next = plan_.units(static_cast<int>(chain[i + 1]));
    if (next.kind() != v1::UNIT_PROPAGATE) return true;
    const v1::Receipt& gave = *by_unit.at(chain[i - 1]);
    return std::all_of(gave.scratch().begin(), gave.scratch().end(),
                       [&](const v1::ScratchFile& file) { return IsThere(file); });
  }

  const v1::Plan& plan_;
  const std::string dir_;
  const std::set<uint32_t> unsolved_;
  LocalStore store_;
};

}  // namespace

absl::Status CheckCalibrationSet(const v1::QuantizeRequest& request) {
  const v1::CalibrationSet& set = request.calibration();
  const bool wanted = request.recipe().has_calibration() || request.has_measure();
  if (wanted != request.has_calibration()) {
    return request.has_calibration()
               ? MakeError(Reason::kBadRequest, "the recipe has nothing to calibrate", {},
                           "Leave --calibration out")
               : MakeError(Reason::kBadRequest,
                           "the recipe has to see activations: it must calibrate", {},
                           "Pass --calibration FILE, or random");
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
  const ScratchCheck check(plan, ScratchDirOf(job.staging_dir()), UnsolvedLayers(plan, *receipts));
  std::map<uint32_t, std::vector<uint32_t>> chains;  // by micro-batch
  for (const v1::Unit& unit : plan.units()) {
    if (TakesBatch(unit)) chains[unit.batch()].push_back(unit.id());
  }
  std::map<uint32_t, std::map<uint32_t, const v1::Receipt*>> batches;  // by micro-batch, unit
  for (const v1::Receipt& receipt : *receipts) {
    const v1::Unit& unit = plan.units(static_cast<int>(receipt.unit_id()));
    if (TakesBatch(unit)) batches[unit.batch()][unit.id()] = &receipt;
  }
  std::set<uint32_t> broken;  // units
  for (const auto& [batch, by_unit] : batches) {
    auto at = by_unit.begin();
    std::advance(at, check.KeptOf(chains[batch], by_unit));
    for (; at != by_unit.end(); ++at) broken.insert(at->first);
  }
  std::erase_if(*receipts, [&](const v1::Receipt& receipt) {
    const v1::Unit& unit = plan.units(static_cast<int>(receipt.unit_id()));
    // Scales were made of statistics that are made again: they too.
    const bool drop = TakesBatch(unit) ? broken.contains(unit.id())
                                       : check.LeafIsMissing(receipt) ||
                                             (unit.kind() == v1::UNIT_SCALES && !broken.empty());
    if (drop) dropped->push_back(receipt.unit_id());
    return drop;
  });
}

}  // namespace octavo
