#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "coordinator/planner/publish.h"
#include "coordinator/report/figures.h"
#include "coordinator/report/report.h"
#include "coordinator/report/sensitivity.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

v1::Digest ToProto(const Digest128& digest) {
  v1::Digest out;
  out.set_low(digest.low);
  out.set_high(digest.high);
  return out;
}

// The canonical 16 bytes: big-endian, high half first, as Hex spells them.
std::array<char, 16> Bytes(const v1::Digest& digest) {
  std::array<char, 16> out;
  for (int i = 0; i < 8; ++i) {
    out[i] = static_cast<char>(digest.high() >> (56 - 8 * i));
    out[8 + i] = static_cast<char>(digest.low() >> (56 - 8 * i));
  }
  return out;
}

// Sorts the ranges, checks that they tile the file, and digests their digests.
absl::Status Seal(v1::ManifestFile* file) {
  auto* ranges = file->mutable_ranges();
  std::sort(ranges->begin(), ranges->end(),
            [](const v1::ManifestRange& a, const v1::ManifestRange& b) {
              return std::pair(a.begin(), a.end()) < std::pair(b.begin(), b.end());
            });
  uint64_t at = 0;
  DigestStream digest;
  for (const v1::ManifestRange& range : *ranges) {
    if (range.begin() != at || range.end() < at) {
      return MakeError(Reason::kInternal, "the receipts do not cover the file exactly",
                       {.file = file->name(), .offset = at});
    }
    at = range.end();
    const auto bytes = Bytes(range.digest());
    digest.Add(std::string_view(bytes.data(), bytes.size()));
  }
  if (at != file->size()) {
    return MakeError(Reason::kInternal, "the receipts do not reach the end of the file",
                     {.file = file->name(), .offset = at});
  }
  *file->mutable_digest() = ToProto(digest.Finish());
  return absl::OkStatus();
}

void AddRange(uint64_t begin, uint64_t end, const v1::Digest& digest, v1::ManifestFile* file) {
  v1::ManifestRange* range = file->add_ranges();
  range->set_begin(begin);
  range->set_end(end);
  *range->mutable_digest() = digest;
}

v1::ManifestFile SmallFile(const std::string& name, uint64_t size, const v1::Digest& digest) {
  v1::ManifestFile file;
  file.set_name(name);
  file.set_size(size);
  AddRange(0, size, digest, &file);
  return file;
}

// One receipt per unit, by unit id; what each unit wrote is what the plan gave it.
absl::StatusOr<std::vector<const v1::Receipt*>> ByUnit(const v1::Plan& plan,
                                                       std::span<const v1::Receipt> receipts) {
  std::vector<const v1::Receipt*> by_unit(plan.units_size());
  for (const v1::Receipt& receipt : receipts) {
    if (receipt.unit_id() >= by_unit.size() || by_unit[receipt.unit_id()] != nullptr) {
      return MakeError(Reason::kInternal,
                       fmt::format("a second or unknown receipt of unit {}", receipt.unit_id()));
    }
    by_unit[receipt.unit_id()] = &receipt;
  }
  for (size_t unit = 0; unit < by_unit.size(); ++unit) {
    if (by_unit[unit] == nullptr) {
      return MakeError(Reason::kInternal, fmt::format("no receipt of unit {}", unit));
    }
  }
  return by_unit;
}

// One entry per quantized tensor, in model order.
void AddErrors(const Figures& figures, v1::Manifest* manifest) {
  for (const TensorFigures& tensor : figures.tensors) {
    v1::TensorError* out = manifest->add_errors();
    out->set_tensor(tensor.name);
    out->set_relative_error(tensor.weights.RelativeError());
    out->set_max_abs_error(tensor.weights.max_abs_error);
    out->set_zero_groups(tensor.weights.zero_groups);
  }
}

// Everything that units wrote or that was carried over, with its digest.
absl::StatusOr<std::vector<v1::ManifestFile>> DataFiles(
    const v1::Plan& plan, std::span<const v1::Receipt* const> by_unit) {
  std::vector<v1::ManifestFile> files(plan.outputs_size());
  for (int i = 0; i < plan.outputs_size(); ++i) {
    const v1::OutputFile& output = plan.outputs(i);
    files[i] = SmallFile(output.name(), output.head().size(), ToProto(DigestOf(output.head())));
    files[i].set_size(output.size());
  }
  for (const v1::Receipt* receipt : by_unit) {
    for (const v1::RangeDigest& range : receipt->ranges()) {
      if (range.range().file() >= files.size()) {
        return MakeError(Reason::kInternal, "a receipt names a file outside the plan");
      }
      AddRange(range.range().begin(), range.range().end(), range.digest(),
               &files[range.range().file()]);
    }
  }
  for (const v1::SourceFile& side : plan.side_files()) {
    files.push_back(SmallFile(side.name(), side.size(), side.header_digest()));
  }
  return files;
}

// Adds files to the manifest, which stays sorted by name.
absl::Status AddFiles(std::vector<v1::ManifestFile> files, v1::Manifest* manifest) {
  for (v1::ManifestFile& file : files) {
    OCTAVO_RETURN_IF_ERROR(Seal(&file));
    *manifest->add_files() = std::move(file);
  }
  std::sort(
      manifest->mutable_files()->begin(), manifest->mutable_files()->end(),
      [](const v1::ManifestFile& a, const v1::ManifestFile& b) { return a.name() < b.name(); });
  return absl::OkStatus();
}

v1::ManifestFile TextFile(const std::string& name, const std::string& text) {
  return SmallFile(name, text.size(), ToProto(DigestOf(text)));
}

}  // namespace

v1::Digest CalibrationDigest(const v1::CalibrationPlan& calibration) {
  DigestStream digest;
  const auto ids = Bytes(calibration.ids());
  digest.Add(std::string_view(ids.data(), ids.size()));
  for (const uint32_t length : calibration.sample_lengths()) {
    const std::array<char, 4> bytes = {static_cast<char>(length >> 24),
                                       static_cast<char>(length >> 16),
                                       static_cast<char>(length >> 8), static_cast<char>(length)};
    digest.Add(std::string_view(bytes.data(), bytes.size()));
  }
  return ToProto(digest.Finish());
}

absl::StatusOr<FolderTexts> MakeFolderTexts(const v1::Plan& plan,
                                            std::span<const v1::Receipt> receipts) {
  OCTAVO_ASSIGN_OR_RETURN(const auto by_unit, ByUnit(plan, receipts));
  FolderTexts texts;
  v1::Manifest& manifest = texts.manifest;
  manifest.set_format("octavo-manifest-1");
  *manifest.mutable_recipe() = plan.recipe();
  if (plan.has_calibration()) {
    *manifest.mutable_calibration() = CalibrationDigest(plan.calibration());
  }
  *manifest.mutable_sources() = plan.sources();
  if (plan.measures()) {
    manifest.set_measured(true);
    std::string& text = texts.files[kSensitivityName];
    text = SensitivityText(plan, MakeSensitivity(plan, by_unit));
    OCTAVO_RETURN_IF_ERROR(AddFiles({TextFile(kSensitivityName, text)}, &manifest));
    return texts;
  }
  const Figures figures = MakeFigures(plan, by_unit);
  AddErrors(figures, &manifest);
  OCTAVO_ASSIGN_OR_RETURN(std::vector<v1::ManifestFile> files, DataFiles(plan, by_unit));
  OCTAVO_RETURN_IF_ERROR(AddFiles(std::move(files), &manifest));

  // Each text lists the files that were there before it.
  std::string& report = texts.files[kReportName];
  std::string& page = texts.files[kReportPageName];
  report = ReportJson(plan, manifest, figures);
  page = ReportPage(plan, manifest, figures);
  OCTAVO_RETURN_IF_ERROR(
      AddFiles({TextFile(kReportName, report), TextFile(kReportPageName, page)}, &manifest));
  std::string& card = texts.files[kCardName];
  card = ModelCard(plan, manifest, figures);
  OCTAVO_RETURN_IF_ERROR(AddFiles({TextFile(kCardName, card)}, &manifest));
  return texts;
}

}  // namespace octavo
