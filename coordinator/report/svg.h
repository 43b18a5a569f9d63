#pragma once

// The plots of the report's page, as inline SVG. One hue in every plot: more is stronger, which
// holds on light and on dark ground, and position or a number always says the same as the colour.
// Colours and fonts come from the page's style sheet (report_page.cc). Every mark has a title that
// says its value. Numbers are formatted with fixed digits and no function of libm is used: the same
// bytes on every machine.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace octavo {

// Text with &, <, >, " and ' replaced, for element content and attributes alike.
std::string HtmlText(std::string_view text);

// "0.02345", "1.2e-05": four significant digits.
std::string ShortNumber(double value);

// A cell for every row and column that has a value; its strength goes from the smallest to the
// largest of all. Columns are numbered from 0.
struct Heatmap {
  std::string name;         // what is drawn, for readers of the page's text
  std::string column_name;  // "layer"
  std::string row_name;     // "role": part of every mark's title, with the row
  std::vector<std::string> rows;
  std::vector<std::vector<std::optional<double>>> values;  // by row, then column
  std::string (*format)(double);
};
std::string HeatmapSvg(const Heatmap& map);

// A bar from `low` to `high` in every row, over an axis of powers of two (linear between them).
struct RangePlot {
  struct Row {
    std::string name;
    double low;  // above 0, at most high
    double high;
  };
  std::string name;
  std::vector<Row> rows;
};
std::string RangeSvg(const RangePlot& plot);

// A dot for every column, joined by a line, over an axis from 0.
struct LinePlot {
  std::string name;
  std::string column_name;
  std::vector<std::optional<double>> values;
};
std::string LineSvg(const LinePlot& plot);

}  // namespace octavo
