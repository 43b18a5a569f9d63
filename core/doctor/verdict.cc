#include "core/doctor/verdict.h"

namespace octavo {

std::string_view Name(Reader reader) {
  switch (reader) {
    case Reader::kOctavo:
      return "octavo";
    case Reader::kVllm:
      return "vllm";
    case Reader::kTransformers:
      return "transformers";
  }
  return "";
}

std::string_view Name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kLoads:
      return "loads";
    case Verdict::kUnknown:
      return "unknown";
    case Verdict::kLoadsWrong:
      return "loads-wrong";
    case Verdict::kRefused:
      return "refused";
  }
  return "";
}

std::string_view Name(Basis basis) { return basis == Basis::kSeen ? "seen" : "source"; }

}  // namespace octavo
