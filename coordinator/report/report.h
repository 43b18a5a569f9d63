#pragma once

// The report inside a published folder, in two forms: octavo_report.json for programs (its fields
// are in docs/formats.md, "Report") and octavo_report.html for people, one page with everything in
// it: plots are inline SVG, there is no script, nothing is loaded from anywhere, and it is made for
// light and dark. Neither holds a time, a host, a path or a number of workers: the bytes are the
// same on every cluster. What a run took lies beside the folder (coordinator/control/job_steps.h).

#include <string>

#include "coordinator/report/figures.h"
#include "octavo/v1/artifact.pb.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

inline constexpr char kReportName[] = "octavo_report.json";
inline constexpr char kReportPageName[] = "octavo_report.html";

// `manifest`: its recipe, sources and files; the files that the report itself is listed among come
// later.
std::string ReportJson(const v1::Plan& plan, const v1::Manifest& manifest, const Figures& figures);
std::string ReportPage(const v1::Plan& plan, const v1::Manifest& manifest, const Figures& figures);

// "mlp_input" of OBSERVED_MLP_INPUT.
std::string FigurePoint(v1::ObservedPoint point);
// "fp8 per channel", "int8 per 128 x 128 block".
std::string FigureFormat(const v1::NumericFormat& format);
// 32 hexadecimal digits.
std::string FigureDigest(const v1::Digest& digest);

}  // namespace octavo
