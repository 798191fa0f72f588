// Numbers with their units, for people.

const SPACE = "\u00a0"; // Keeps a unit on the line of its number.
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const cents = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const oneTenth = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (number) => whole.format(number);

export function percent(share) {
  const points = share * 100;
  // Only all is 100 %, and only none is 0 %.
  if (points > 99.9 && points < 100) return `>${SPACE}99.9${SPACE}%`;
  if (points > 0 && points < 0.1) return `<${SPACE}0.1${SPACE}%`;
  // One decimal, so that figures of a column align.
  return `${(points % 100 ? oneTenth : whole).format(points)}${SPACE}%`;
}

export function dollars(amount) {
  if (amount === 0 || amount >= 0.01) return `$${cents.format(amount)}`;
  return `$${amount < 0.000001 ? amount.toExponential(0) : amount.toFixed(6)}`;
}

// The bounds are the values that round to the next unit.
export function seconds(span) {
  if (span === 0) return `0${SPACE}s`;
  if (span < 0.0009995) return `${digits.format(span * 1e6)}${SPACE}µs`;
  if (span < 0.9995) return `${digits.format(span * 1e3)}${SPACE}ms`;
  if (span < 60) return `${digits.format(span)}${SPACE}s`;
  const rounded = Math.round(span);
  if (rounded < 3600) return pair(rounded, 60, "min", 1, "s");
  if (rounded < 86400) return pair(rounded, 3600, "h", 60, "min");
  return pair(rounded, 86400, "d", 3600, "h");
}

function pair(span, large, largeUnit, small, smallUnit) {
  const rest = Math.floor((span % large) / small);
  const most = `${count(Math.floor(span / large))}${SPACE}${largeUnit}`;
  return rest ? `${most} ${rest}${SPACE}${smallUnit}` : most;
}

export function bytes(number) {
  if (number < 1024) return `${count(number)}${SPACE}B`;
  for (const unit of ["KiB", "MiB", "GiB"]) {
    number /= 1024;
    if (number < 1023.95) return `${tenths.format(number)}${SPACE}${unit}`;
  }
  return `${tenths.format(number / 1024)}${SPACE}TiB`;
}
