// Every text of the page, in both languages, in one table. {0}, {1} are filled in by t().

import { reasonInVietnamese } from "./reasons.js";

const TEXTS = {
  //                English                                            Tiếng Việt
  skip:            ["Skip to the list",                                "Đến thẳng danh sách"],
  worklist:        ["Worklist",                                        "Danh sách đọc"],
  language:        ["Language",                                        "Ngôn ngữ"],
  keys:            ["Keys",                                            "Phím tắt"],
  who:             ["Patient",                                         "Bệnh nhân"],
  whoHint:         ["Name, accents optional, or ID",                   "Tên (không cần dấu) hoặc mã"],
  state:           ["State",                                           "Trạng thái"],
  open:            ["To read",                                         "Chưa đọc"],
  read:            ["Read",                                            "Đã đọc"],
  modality:        ["Modality",                                        "Loại máy"],
  any:             ["Any",                                             "Tất cả"],
  site:            ["Site",                                            "Cơ sở"],
  dateFrom:        ["Study date from",                                 "Ngày chụp từ"],
  dateTo:          ["to",                                              "đến"],
  flaggedOnly:     ["Flagged only",                                    "Chỉ ca được gắn cờ"],
  clear:           ["Clear",                                           "Xoá lọc"],
  due:             ["Due",                                             "Hạn đọc"],
  flag:            ["Model",                                           "Mô hình"],
  patient:         ["Patient",                                         "Bệnh nhân"],
  study:           ["Study",                                           "Ca chụp"],
  why:             ["Why here",                                        "Lý do xếp chỗ"],
  arrived:         ["Arrived",                                         "Nhận lúc"],
  more:            ["Load more",                                       "Tải thêm"],
  empty:           ["No study matches these filters.",                 "Không có ca nào khớp với bộ lọc."],
  emptyOpen:       ["Nothing is waiting to be read.",                  "Không có ca nào chờ đọc."],
  arrival:         ["Models are not running: the list is in arrival order.",
                    "Mô hình không chạy: danh sách xếp theo thứ tự đến."],
  noNegativeMark:  ["Not flagged is not a negative.",                  "Không gắn cờ không có nghĩa là âm tính."],
  noNegative:      ["It only means that no model asked for this study to be read sooner. Every study needs a reader.",
                    "Điều đó chỉ có nghĩa là không mô hình nào đề nghị đọc sớm hơn. Mọi ca đều cần người đọc."],
  notADevice:      ["sangloc orders a reading queue. It is not a medical device and makes no diagnosis.",
                    "sangloc sắp xếp hàng đợi đọc phim. Đây không phải thiết bị y tế và không đưa ra chẩn đoán."],
  loginTitle:      ["This server asks for a token",                    "Máy chủ này yêu cầu mã truy cập"],
  loginText:       ["It is kept in this tab only and forgotten when the tab closes.",
                    "Mã chỉ được giữ trong thẻ này và mất khi đóng thẻ."],
  loginWrong:      ["The server does not know this token.",            "Máy chủ không nhận mã này."],
  token:           ["Token",                                           "Mã truy cập"],
  enter:           ["Continue",                                        "Tiếp tục"],
  liveOn:          ["Live",                                            "Trực tiếp"],
  liveOff:         ["Reconnecting …",                                  "Đang kết nối lại …"],
  inTime:          ["in {0}",                                          "còn {0}"],
  overdue:         ["overdue {0}",                                     "quá hạn {0}"],
  dueNow:          ["due now",                                         "đến hạn"],
  minutes:         ["{0} min",                                         "{0} phút"],
  hours:           ["{0} h {1} min",                                   "{0} giờ {1} phút"],
  days:            ["{0} d {1} h",                                     "{0} ngày {1} giờ"],
  flagged:         ["Flagged",                                         "Gắn cờ"],
  notFlagged:      ["not flagged",                                     "không gắn cờ"],
  waiting:         ["waiting for the model",                           "chờ mô hình"],
  not_eligible:    ["not for the model",                               "mô hình không đọc"],
  failed:          ["model failed",                                    "mô hình lỗi"],
  stat:            ["STAT",                                            "CẤP CỨU"],
  urgent:          ["URGENT",                                          "KHẨN"],
  suspected:       ["Suspected {0}.",                                  "Nghi {0}."],
  looksAbnormal:   ["Abnormal to the model.",                          "Mô hình thấy bất thường."],
  maxWait:         ["Due by the site's maximum wait.",                 "Theo thời gian chờ tối đa của cơ sở."],
  waitingWhy:      ["The model has not read it yet; due by the site's maximum wait.",
                    "Mô hình chưa đọc; hạn theo thời gian chờ tối đa của cơ sở."],
  born:            ["b. {0}",                                          "sinh {0}"],
  M:               ["M",                                               "nam"],
  F:               ["F",                                               "nữ"],
  O:               ["other",                                           "khác"],
  noName:          ["(no name sent)",                                  "(không có tên)"],
  readBy:          ["Read by {0} at {1}",                              "{0} đọc lúc {1}"],
  marked:          ["Marked as read: {0}",                             "Đã đánh dấu đã đọc: {0}"],
  reopened:        ["Back on the list: {0}",                           "Đã đưa lại vào danh sách: {0}"],
  undo:            ["Undo",                                            "Hoàn tác"],
  markRead:        ["Mark as read",                                    "Đánh dấu đã đọc"],
  reopen:          ["Put back on the list",                            "Đưa lại vào danh sách"],
  close:           ["Close",                                           "Đóng"],
  image:           ["Image {0} of {1}",                                "Ảnh {0} / {1}"],
  imageOf:         ["Radiograph of {0}",                               "Phim của {0}"],
  loading:         ["Loading …",                                       "Đang tải …"],
  brightness:      ["Level",                                           "Mức (level)"],
  contrast:        ["Window",                                          "Cửa sổ (window)"],
  resetWindow:     ["As stored",                                       "Mặc định"],
  download:        ["Original DICOM file",                             "Tệp DICOM gốc"],
  map:             ["Map",                                             "Bản đồ"],
  mapHint:         ["Where the model saw it. Not for diagnosis.",      "Vị trí mô hình thấy. Không dùng để chẩn đoán."],
  findings:        ["What the model reported",                         "Mô hình báo cáo"],
  finding:         ["Finding",                                         "Dấu hiệu"],
  probability:     ["Probability",                                     "Xác suất"],
  threshold:       ["Threshold",                                       "Ngưỡng"],
  source:          ["{0} {1}, weights {2}, {3}; {4} ms decoding + {5} ms model; {6}",
                    "{0} {1}, trọng số {2}, {3}; giải mã {4} ms + mô hình {5} ms; {6}"],
  noScores:        ["No model has read this study: {0}",               "Chưa mô hình nào đọc ca này: {0}"],
  accession:       ["Accession {0}",                                   "Số phiếu {0}"],
  helpTitle:       ["Keyboard",                                        "Bàn phím"],
  helpMove:        ["next / previous study",                           "ca kế tiếp / ca trước"],
  helpOpen:        ["open the study",                                  "mở ca"],
  helpClose:       ["close the study",                                 "đóng ca"],
  helpRead:        ["mark as read (or put back)",                      "đánh dấu đã đọc (hoặc đưa lại)"],
  helpMap:         ["show or hide the model's map",                    "hiện hoặc ẩn bản đồ của mô hình"],
  helpUndo:        ["undo",                                            "hoàn tác"],
  helpSearch:      ["search",                                          "tìm kiếm"],
  helpHelp:        ["this help",                                       "trợ giúp này"],
  helpDrag:        ["On the image: drag to change level (up, down) and window (left, right).",
                    "Trên ảnh: kéo lên xuống để đổi mức, trái phải để đổi cửa sổ."],
  away:            ["The server does not answer now ({0}). Trying again …",
                    "Máy chủ hiện không trả lời ({0}). Đang thử lại …"],
};

const FINDINGS_VI = {
  abnormal: "bất thường", atelectasis: "xẹp phổi", cardiomegaly: "bóng tim to", consolidation: "đông đặc phổi",
  edema: "phù phổi", effusion: "tràn dịch màng phổi", emphysema: "khí phế thũng", fibrosis: "xơ phổi",
  fracture: "gãy xương", hernia: "thoát vị hoành", infiltration: "thâm nhiễm", "lung opacity": "đám mờ phổi",
  mass: "khối mờ", nodule: "nốt mờ", "pleural effusion": "tràn dịch màng phổi", "pleural thickening": "dày màng phổi",
  pneumonia: "viêm phổi", pneumothorax: "tràn khí màng phổi", tuberculosis: "lao phổi", "covid-19": "COVID-19",
};

const KEY = "sangloc.language";
let index = 0;

export function language() {
  return index === 1 ? "vi" : "en";
}

export function chooseLanguage(code) {
  index = code === "vi" ? 1 : 0;
  try { localStorage.setItem(KEY, language()); } catch { /* private browsing: this tab only */ }
  document.documentElement.lang = language();
}

export function startLanguage() {
  let kept = null;
  try { kept = localStorage.getItem(KEY); } catch { /* as above */ }
  const wanted = kept ?? navigator.language;
  index = wanted.toLowerCase().startsWith("vi") ? 1 : 0;
  document.documentElement.lang = language();
}

export function t(name, ...values) {
  return TEXTS[name][index].replace(/\{(\d)\}/g, (_, place) => values[Number(place)] ?? "");
}

export function findingName(name) {
  const plain = name.replaceAll("_", " ").toLowerCase();
  return ((index === 1 && FINDINGS_VI[plain]) || plain).replace("covid", "COVID");
}

// Why no model read a study; with the language it is in.
export function reason(text) {
  const own = index === 1 ? reasonInVietnamese(text) : null;
  return { lang: own === null ? "en" : "vi", textContent: own ?? text };
}

export function translatePage() {
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-placeholder]")) element.placeholder = t(element.dataset.tPlaceholder);
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language()));
  }
  document.title = `sangloc · ${t("worklist")}`;
}

export function percent(value) {
  return new Intl.NumberFormat(language(), { style: "percent", maximumFractionDigits: value > 0.99 || value < 0.01 ? 1 : 0 }).format(value);
}

export function clock(iso) {
  const when = new Date(iso);
  const sameDay = when.toDateString() === new Date().toDateString();
  const shape = sameDay ? { hour: "2-digit", minute: "2-digit" } : { day: "2-digit", month: "2-digit", hour: "2-digit", minute: "2-digit" };
  return new Intl.DateTimeFormat(language() === "vi" ? "vi" : navigator.language, { ...shape, hour12: false }).format(when);
}

export function day(isoDate) {
  const [year, month, date] = isoDate.split("-");
  return language() === "vi" ? `${date}/${month}/${year}` : `${year}-${month}-${date}`;
}

export function span(milliseconds) {
  const minutes = Math.floor(Math.abs(milliseconds) / 60000);
  if (minutes < 60) return t("minutes", minutes);
  if (minutes < 48 * 60) return t("hours", Math.floor(minutes / 60), String(minutes % 60).padStart(2, "0"));
  return t("days", Math.floor(minutes / 1440), Math.floor((minutes % 1440) / 60));
}
